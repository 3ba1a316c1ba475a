// Panels for the tile unit: weights of any format in bf16, a pair of sums to a dword, 16 outputs to
// a tile's row. Integer codes become what they stand for, rounded to bf16, so that activations need
// no rounding, and no sum leaves the unit to be scaled.
//
// TDPBSUD multiplies bytes at twice the rate, but a granule of A is 64 columns, one product: its 32
// x 32 sums then are stored, loaded, converted, scaled and added. With that S3 took 82 / 197 ms for
// INT8 (forward / and backward), 74 / 173 for INT4 and 70 / 165 for KGroup on the machine of amx.h;
// so it takes 58 / 132, 53 / 124 and 54 / 128, and the kernels add 0.35% of error to S1's output
// instead of 1.17.
#pragma once

namespace kt {
namespace {

template <class F>
concept HasCodes = requires { F::kIntegers; };

// 16 rows x 16 columns of weights at a time, from a row of blocks: BF16's, as AVX-512 unpacks them.
template <class F, Axis axis>
struct BlockUnpacker {
  static constexpr int kSpan = F::kSpan;  // bytes of 16 columns
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

// Codes: weight = scale * code - scale * zero in one FMA, exactly what the format stands for, since
// zero is a power of two. (128 + a code of four bits is the bits of 128.0F with the code in the
// third byte, which saves the conversion and 2 to 4% of the time, but then 0 is not quite 0.)
template <class F, Axis axis>
  requires HasCodes<F>
struct BlockUnpacker<F, axis> {
  static constexpr int kSpan = F::Block::kSpan;
  static const std::byte* row_of_blocks(const Packed& w, int row) {
    return w.data + row / kLanes * F::Block::group_bytes(w.k);
  }

  void to_row(const Packed& w, int row, int column) {
    blocks_ = row_of_blocks(w, row);
    take_scales(w, row, column);
  }
  void unpack(const Packed& w, int row, int column, act_t* to) {
    if constexpr (F::kIntegers.grouped) {
      if (column >= end_) take_scales(w, row, column);
    }
    __m512i v[4];
    KT_UNROLL for (int j = 0; j < 4; ++j) {
      v[j] = F::Block::template load<Avx512Bytes>(blocks_, column, j);
    }
    if constexpr (axis == Axis::k) {
      __m512i p[4];
      Avx512Vector::transpose(v, p);  // dword r of p[j]: columns 4 j to 4 j + 3 of row r
      KT_UNROLL for (const __m512i& columns : p) {
        KT_UNROLL for (int h = 0; h < 2; ++h, to += 2 * kLanes) store_pairs(columns, h, 0, 1, to);
      }
    } else {
      KT_UNROLL for (int j = 0; j < 4; ++j) {  // lane l: row 4 l + j
        KT_UNROLL for (int h = 0; h < 2; ++h, to += 2 * kLanes) {
          store_pairs(v[j], h, 2 * j + h, 2 * j + h, to);
        }
      }
    }
  }

 private:
  static constexpr int kFactors = axis == Axis::k ? 2 : 8;

  // The h-th pairs of 8 outputs, from the `half`-th 8 on: a byte of each dword.
  static __m512 pairs_of(__m512i codes, int h, int half) {
    alignas(64) std::uint8_t from[64] = {};
    for (int i = 0; i < kLanes; ++i) {
      const int output = 8 * half + i / 2;
      const int sum = 2 * h + i % 2;
      from[4 * i] =
          static_cast<std::uint8_t>(axis == Axis::k ? 4 * output + sum : kLanes * sum + output);
    }
    return _mm512_cvtepi32_ps(
        _mm512_maskz_permutexvar_epi8(0x1111111111111111U, _mm512_load_si512(from), codes));
  }

  void store_pairs(__m512i codes, int h, int low, int high, act_t* to) const {
    const __m512 a = value(pairs_of(codes, h, 0), low);
    const __m512 b = value(pairs_of(codes, h, 1), high);
    _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
  }
  [[nodiscard]] __m512 value(__m512 codes, int which) const {
    return _mm512_fmadd_ps(codes, _mm512_load_ps(factor_[which]), _mm512_load_ps(offset_[which]));
  }

  // The scales of a row of blocks from a column on, spread over pairs: along k a pair has one
  // output's, along n those of two rows.
  void take_scales(const Packed& w, int row, int column) {
    if constexpr (F::kIntegers.grouped) end_ = (column / w.group + 1) * w.group;
    alignas(64) float scales[kLanes];
    F::template output_scales<Avx512Vector>(w, row, min(column, w.k - 1), scales);
    const __m512 all = _mm512_load_ps(scales);
    KT_UNROLL for (int f = 0; f < kFactors; ++f) {
      alignas(64) std::int32_t from[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        from[i] = axis == Axis::k ? 8 * f + i / 2 : 8 * (f % 2) + 4 * (i % 2) + f / 2;
      }
      const __m512 factor = _mm512_permutexvar_ps(_mm512_load_si512(from), all);
      _mm512_store_ps(factor_[f], factor);
      _mm512_store_ps(offset_[f],
                      _mm512_mul_ps(factor, _mm512_set1_ps(-static_cast<float>(F::Block::kZero))));
    }
  }

  const std::byte* blocks_ = nullptr;
  int end_ = 0;  // of the columns that share the scales
  alignas(64) float factor_[kFactors][kLanes];
  alignas(64) float offset_[kFactors][kLanes];
};

// A tile's row is kStepColumns sums.
inline void zero_rest(act_t* panel, int vectors, int depth, int whole) {
  for (int v = 0; whole != depth && v < vectors; ++v) {
    __builtin_memset(
        panel + v * Avx512Bf16::panel_size(whole) + Avx512Bf16::panel_size(depth), 0,
        sizeof(act_t) * static_cast<std::size_t>(Avx512Bf16::panel_size(whole - depth)));
  }
}

// Unpacks a panel while the unit multiplies the one before: 16 rows x 16 columns at a time, for
// which there is room beside the tiles' loads. Then it fetches what the panel after that has in
// their place into L2.
template <class F, Axis axis>
class Unpacking {
 public:
  Unpacking() = default;
  Unpacking(const Packed& w, int output, int vectors, int sum, int depth, act_t* panel)
      : w_(w), to_(panel) {
    const int whole = round_up(depth, kStepColumns);
    zero_rest(panel, vectors, depth, whole);
    const int groups = div_up(depth, kLanes);
    columns_ = axis == Axis::k ? groups : vectors;
    left_ = groups * vectors;
    row_ = axis == Axis::k ? output : sum;
    column_ = first_ = axis == Axis::k ? sum : output;
    to_column_ = axis == Axis::k ? Avx512Bf16::panel_size(kLanes) : Avx512Bf16::panel_size(whole);
    to_row_ = (axis == Axis::k ? Avx512Bf16::panel_size(whole) : Avx512Bf16::panel_size(kLanes)) -
              columns_ * to_column_;
    unpacker_.to_row(w_, row_, column_);
  }

  // Another panel, whose lines are to be fetched.
  void ahead(const Packed& w, int output, int sum) {
    const int row = axis == Axis::k ? output : sum;
    const int column = axis == Axis::k ? sum : output;
    ahead_ = BlockUnpacker<F, axis>::row_of_blocks(w, row) +
             std::int64_t{column - first_} / kLanes * kSpan;
    stride_ = BlockUnpacker<F, axis>::row_of_blocks(w, kLanes) -
              BlockUnpacker<F, axis>::row_of_blocks(w, 0);
  }
  // In how many steps all is to be done.
  void spread(int steps) { share_ = div_up(left_, steps); }
  void step() { some(share_); }
  void finish() { some(left_); }

 private:
  static constexpr int kSpan = BlockUnpacker<F, axis>::kSpan;

  void some(int count) {
    for (; count > 0 && left_ > 0; --count) {
      unpacker_.unpack(w_, row_, column_, to_);
      if (ahead_ != nullptr)
        Avx512Vector::prefetch(ahead_ + std::int64_t{column_} / kLanes * kSpan, kSpan);
      to_ += to_column_;
      column_ += kLanes;
      --left_;
      if (column_ != first_ + columns_ * kLanes) continue;
      to_ += to_row_;
      column_ = first_;
      row_ += kLanes;
      if (ahead_ != nullptr) ahead_ += stride_;
      if (left_ > 0) unpacker_.to_row(w_, row_, column_);
    }
  }

  Packed w_;
  BlockUnpacker<F, axis> unpacker_;
  const std::byte* ahead_ = nullptr;
  std::int64_t stride_ = 0;
  act_t* to_ = nullptr;
  int to_column_ = 0;
  int to_row_ = 0;  // from the end of a row
  int row_ = 0;     // of the weights
  int column_ = 0;
  int first_ = 0;
  int columns_ = 0;  // of 16
  int left_ = 0;
  int share_ = 0;
};

// A row-major matrix, unpacked all at once: LoRA's are small.
template <class F, Axis axis>
  requires(!F::kStored)
class Unpacking<F, axis> {
 public:
  Unpacking() = default;
  Unpacking(const RowMajor& w, int output, int vectors, int sum, int depth, act_t* panel,
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
