// Panels for the tile unit: weights of any format in bf16, a pair of sums to a dword, 16 outputs to
// a tile's row. Integer codes become what they stand for, rounded to bf16, or stay what they are
// (amx_codes.h), so that activations need no rounding to 8 bits.
//
// TDPBSUD multiplies bytes at twice the rate, but a granule of A is 64 columns, one product: its 32
// x 32 sums then are stored, loaded, converted, scaled and added. With that S3 took 82 / 197 ms for
// INT8 (forward / and backward), 74 / 173 for INT4 and 70 / 165 for KGroup on the machine of amx.h,
// by way of values in bf16 58 / 132, 53 / 124 and 54 / 128, and the kernels add 0.35% of error to
// S1's output instead of 1.17.
#pragma once

namespace kt {
namespace {

constexpr int kDepthOfA = 256;  // columns of A at a time, and of a panel: 16 KiB, L1 being 48

template <class F>
concept GroupedCodes = requires { F::kIntegers; } && F::kIntegers.grouped;

// 16 rows x 16 columns of weights at a time, from a row of blocks: BF16's, as AVX-512 unpacks them.
template <class F, Axis axis>
struct BlockUnpacker {
  static constexpr bool kCodes = false;
  static constexpr int kColumns = kLanes;  // at a time
  static constexpr int kSpan = F::kSpan;   // bytes of them
  static const std::byte* row_of_blocks(const Packed& w, int row) {
    return F::template blocks<Avx512Bf16, Axis::k>(w, row, 0, 0, nullptr).data;
  }

  void to_row(const Packed& w, int row, int column) {
    from_ = row_of_blocks(w, row) + std::int64_t{column} / kLanes * kSpan;
  }
  void unpack(const Packed& /*w*/, int /*row*/, int /*column*/, act_t* to) {
    if constexpr (axis == Axis::k) {
      Avx512Bf16::unpack_k(from_, kLanes, to);
    } else {
      Avx512Bf16::unpack_n(from_, 0, kLanes, to);
    }
    from_ += kSpan;
  }

 private:
  const std::byte* from_ = nullptr;
};

// Codes with scales by group, along k: weight = scale * code - scale * zero in one FMA, exactly
// what the format stands for, since zero is a power of two. (128 + a code of four bits is the bits
// of 128.0F with the code in the third byte, which saves the conversion and 2 to 4% of the time,
// but then 0 is not quite 0.)
template <class F, Axis axis>
  requires(GroupedCodes<F> && axis == Axis::k)
struct BlockUnpacker<F, axis> {
  static constexpr bool kCodes = false;
  static constexpr int kColumns = kLanes;
  static constexpr int kSpan = F::Block::kSpan;
  static const std::byte* row_of_blocks(const Packed& w, int row) {
    return w.data + row / kLanes * F::Block::group_bytes(w.k);
  }

  void to_row(const Packed& w, int row, int column) {
    blocks_ = row_of_blocks(w, row);
    take_scales(w, row, column);
  }
  void unpack(const Packed& w, int row, int column, act_t* to) {
    if (column >= end_) take_scales(w, row, column);
    __m512i v[4];
    KT_UNROLL for (int j = 0; j < 4; ++j) {
      v[j] = F::Block::template load<Avx512Bytes>(blocks_, column, j);
    }
    __m512i p[4];
    Avx512Vector::transpose(v, p);  // dword r of p[j]: columns 4 j to 4 j + 3 of row r
    KT_UNROLL for (const __m512i& columns : p) {
      KT_UNROLL for (int h = 0; h < 2; ++h, to += 2 * kLanes) {
        const __m512 low = value(pairs_of(columns, h, 0), 0);
        const __m512 high = value(pairs_of(columns, h, 1), 1);
        _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
      }
    }
  }

 private:
  // The h-th pairs of 8 outputs, from the `half`-th 8 on: a byte of each dword.
  static __m512 pairs_of(__m512i codes, int h, int half) {
    alignas(64) std::uint8_t from[64] = {};
    for (int i = 0; i < kLanes; ++i) {
      from[4 * i] = static_cast<std::uint8_t>(4 * (8 * half + i / 2) + 2 * h + i % 2);
    }
    return _mm512_cvtepi32_ps(
        _mm512_maskz_permutexvar_epi8(0x1111111111111111U, _mm512_load_si512(from), codes));
  }
  [[nodiscard]] __m512 value(__m512 codes, int half) const {
    return _mm512_fmadd_ps(codes, _mm512_load_ps(factor_[half]), _mm512_load_ps(offset_[half]));
  }

  // The scales of a row of blocks from a column on, spread over pairs.
  void take_scales(const Packed& w, int row, int column) {
    end_ = (column / w.group + 1) * w.group;
    alignas(64) float scales[kLanes];
    F::template output_scales<Avx512Vector>(w, row, min(column, w.k - 1), scales);
    const __m512 all = _mm512_load_ps(scales);
    KT_UNROLL for (int half = 0; half < 2; ++half) {
      alignas(64) std::int32_t from[kLanes];
      for (int i = 0; i < kLanes; ++i) from[i] = 8 * half + i / 2;
      const __m512 factor = _mm512_permutexvar_ps(_mm512_load_si512(from), all);
      _mm512_store_ps(factor_[half], factor);
      _mm512_store_ps(offset_[half],
                      _mm512_mul_ps(factor, _mm512_set1_ps(-static_cast<float>(F::Block::kZero))));
    }
  }

  const std::byte* blocks_ = nullptr;
  int end_ = 0;  // of the columns that share the scales
  alignas(64) float factor_[2][kLanes];
  alignas(64) float offset_[2][kLanes];
};

// A tile's row is kStepColumns sums.
inline void zero_rest(act_t* panel, int vectors, int depth, int whole) {
  for (int v = 0; whole != depth && v < vectors; ++v) {
    __builtin_memset(
        panel + v * Avx512Bf16::panel_size(whole) + Avx512Bf16::panel_size(depth), 0,
        sizeof(act_t) * static_cast<std::size_t>(Avx512Bf16::panel_size(whole - depth)));
  }
}

// Unpacks a panel while the unit multiplies the one before: 16 rows x kColumns at a time, for
// which there is room beside the tiles' loads. Then it fetches what the panel after that has in
// their place into L2.
template <class Unpacker, Axis axis>
class Unpacking {
 public:
  static constexpr bool kCodes = Unpacker::kCodes;
  Unpacking() = default;
  Unpacking(const Packed& w, int output, int vectors, int sum, int depth, act_t* panel,
            std::byte* /*blocks*/)
      : w_(w), to_(panel) {
    const int whole = round_up(depth, kStepColumns);
    const int groups = div_up(depth, kSums);
    zero_rest(panel, vectors, groups * kSums, whole);
    columns_ = axis == Axis::k ? groups : vectors;
    left_ = groups * vectors;
    row_ = axis == Axis::k ? output : sum;
    column_ = first_ = axis == Axis::k ? sum : output;
    to_column_ = axis == Axis::k ? Avx512Bf16::panel_size(kSums) : Avx512Bf16::panel_size(whole);
    to_row_ = (axis == Axis::k ? Avx512Bf16::panel_size(whole) : Avx512Bf16::panel_size(kLanes)) -
              columns_ * to_column_;
    unpacker_.to_row(w_, row_, column_);
  }

  // Another panel, whose lines are to be fetched.
  void ahead(const Packed& w, int output, int sum) {
    const int row = axis == Axis::k ? output : sum;
    const int column = axis == Axis::k ? sum : output;
    ahead_ = Unpacker::row_of_blocks(w, row) + std::int64_t{column - first_} / kColumns * kSpan;
    stride_ = Unpacker::row_of_blocks(w, kLanes) - Unpacker::row_of_blocks(w, 0);
  }
  // In how many steps all is to be done.
  void spread(int steps) { share_ = div_up(left_, steps); }
  void step() { some(share_); }
  void finish() { some(left_); }

 private:
  static constexpr int kColumns = Unpacker::kColumns;
  static constexpr int kSpan = Unpacker::kSpan;
  static constexpr int kSums = axis == Axis::k ? kColumns : kLanes;  // at a time

  void some(int count) {
    for (; count > 0 && left_ > 0; --count) {
      unpacker_.unpack(w_, row_, column_, to_);
      if (ahead_ != nullptr)
        Avx512Vector::prefetch(ahead_ + std::int64_t{column_} / kColumns * kSpan, kSpan);
      to_ += to_column_;
      column_ += kColumns;
      --left_;
      if (column_ != first_ + columns_ * kColumns) continue;
      to_ += to_row_;
      column_ = first_;
      row_ += kLanes;
      if (ahead_ != nullptr) ahead_ += stride_;
      if (left_ > 0) unpacker_.to_row(w_, row_, column_);
    }
  }

  Packed w_;
  Unpacker unpacker_;
  const std::byte* ahead_ = nullptr;
  std::int64_t stride_ = 0;
  act_t* to_ = nullptr;
  int to_column_ = 0;
  int to_row_ = 0;  // from the end of a row
  int row_ = 0;     // of the weights
  int column_ = 0;
  int first_ = 0;
  int columns_ = 0;  // of kColumns each
  int left_ = 0;
  int share_ = 0;
};

// A row-major matrix, unpacked all at once: LoRA's are small.
template <class F, Axis axis>
class UnpackedRows {
 public:
  static constexpr bool kCodes = false;
  UnpackedRows() = default;
  UnpackedRows(const RowMajor& w, int output, int vectors, int sum, int depth, act_t* panel,
               std::byte* blocks) {
    const int whole = round_up(depth, kStepColumns);
    zero_rest(panel, vectors, depth, whole);
    for (int v = 0; v < vectors; ++v) {
      const Blocks from =
          F::template blocks<Avx512Bf16, axis>(w, output + v * kLanes, sum, depth, blocks);
      act_t* const to = panel + v * Avx512Bf16::panel_size(whole);
      if constexpr (axis == Axis::k) {
        Avx512Bf16::unpack_k(from.data, depth, to);
      } else {
        Avx512Bf16::unpack_n(from.data, from.stride, depth, to);
      }
    }
  }
  void ahead(const RowMajor& /*w*/, int /*output*/, int /*sum*/) {}
  void spread(int /*steps*/) {}
  void step() {}
  void finish() {}
};

}  // namespace
}  // namespace kt
