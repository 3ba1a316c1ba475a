// Panels of integer codes as they are, which bf16 holds exactly. A row's scale multiplies the sums
// along k, so that no weight is rounded, and A's columns along n; the scales of a group multiply
// its sums along k, and along n the codes by way of tables.
//
// By their count of instructions the two ports for vectors need some 26 cycles for 512 codes of 4
// bits, 64 for 8 bits and 61 for
// groups along n. As values, scaled and converted in pairs (amx_panels.h), they are 80: on a
// Sapphire Rapids VCVTNE2PS2BF16 starts every other cycle. Medians of 15 on the 2-core guest of
// amx.h, codes over values, both orders: S1 0.87 forward and 0.90 backward in INT4, 0.96 and 0.95
// in KGroup, 1.00 and 0.99 in INT8, where memory is the limit.
//
// Both directions make dwords of four sums of one output first, "quads". Of a quad the tile unit's
// pairs are sums 0 and 2, and 1 and 3, where codes of 4 bits lie in equal places of two words.
#pragma once

namespace kt {
namespace {

// The exponent of the largest of 16 scales along k: panels hold codes times that power of two, so
// that before scaling no sum is much larger than one of these outputs may be after it. (A scale of
// less than 2^-126 times that counts as zero.) Along n A has the scales.
template <class F, Axis axis>
int unit_exponent(const Packed& w, int row, int column) {
  if constexpr (axis == Axis::n) return 0;
  alignas(64) float scales[kLanes];
  F::template output_scales<Avx512Vector>(w, row, column, scales);
  const float most = Avx512Vector::largest(
      Avx512Vector::larger(Avx512Vector::set1(0.0F), Avx512Vector::load(scales)));
  const auto exponent = static_cast<int>(__builtin_bit_cast(std::uint32_t, most) >> 23) - 127;
  return max(-100, min(100, exponent));
}
inline float power_of_two(int exponent) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(exponent + 127) << 23);
}

constexpr int kAndOr = 0xea;  // of VPTERNLOG: first & second | third

// What becomes of a quad's codes: two rows of a tile.
//
// Codes of 4 bits in the low halves of bytes: VPERMW looks up 5 bits of a word, of which the fifth
// does not matter.
template <class F, Axis axis>
class NibbleValues {
 public:
  void to(const Packed& w, int row, int column) {
    alignas(64) std::uint16_t values[32];
    for (int i = 0; i < 32; ++i)
      values[i] = high_word(static_cast<float>(i % 16 - F::Block::kZero));
    const __m512i codes = _mm512_load_si512(values);
    const auto exponent = static_cast<std::int16_t>(unit_exponent<F, axis>(w, row, column) * 128);
    _mm512_store_si512(table_, _mm512_mask_add_epi16(codes, _mm512_test_epi16_mask(codes, codes),
                                                     codes, _mm512_set1_epi16(exponent)));
  }
  void store(__m512i quads, int /*j*/, act_t* to) const {
    const __m512i table = _mm512_load_si512(table_);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(quads, table));
    _mm512_storeu_si512(to + 2 * kLanes,
                        _mm512_permutexvar_epi16(_mm512_srli_epi16(quads, 8), table));
  }

 private:
  static std::uint16_t high_word(float x) {
    return static_cast<std::uint16_t>(__builtin_bit_cast(std::uint32_t, x) >> 16);
  }
  alignas(64) std::uint16_t table_[2 * kLanes];
};

// Codes of 8 bits: the upper mantissa of a number in [1, 2) times 256 units, less 1.5 of those. The
// lower half of such a difference is zero: it is a bf16.
template <class F, Axis axis>
class ByteValues {
 public:
  void to(const Packed& w, int row, int column) {
    const __m512 one = _mm512_set1_ps(power_of_two(unit_exponent<F, axis>(w, row, column) + 8));
    _mm512_store_ps(one_, one);
    _mm512_store_ps(middle_, _mm512_mul_ps(one, _mm512_set1_ps(1.5F)));
  }
  void store(__m512i quads, int /*j*/, act_t* to) const {
    const __m512i sums[4] = {value(_mm512_slli_epi32(quads, 15)),
                             value(_mm512_slli_epi32(quads, 7)), value(_mm512_srli_epi32(quads, 1)),
                             value(_mm512_srli_epi32(quads, 9))};
    KT_UNROLL for (int h = 0; h < 2; ++h, to += 2 * kLanes) {
      _mm512_storeu_si512(to, _mm512_or_si512(_mm512_srli_epi32(sums[h], 16), sums[2 + h]));
    }
  }

 private:
  [[nodiscard]] __m512i value(__m512i shifted) const {
    const __m512i bits = _mm512_ternarylogic_epi32(shifted, _mm512_set1_epi32(0xff << 15),
                                                   _mm512_load_si512(one_), kAndOr);
    return _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_load_ps(middle_)));
  }
  alignas(64) float one_[kLanes];
  alignas(64) float middle_[kLanes];
};

// Along n a scale by group holds for one row of weights and all outputs of a block: of two rows
// the 16 values each, in bf16, are one table. The fifth bit says whose.
template <class F>
class GroupValues {
 public:
  void to(const Packed& w, int row, int column) {
    alignas(64) float scales[kLanes];
    F::template output_scales<Avx512Vector>(w, row, column, scales);
    alignas(64) float values[kLanes];
    for (int i = 0; i < kLanes; ++i) values[i] = static_cast<float>(i - F::Block::kZero);
    const __m512 codes = _mm512_load_ps(values);
    KT_UNROLL for (int t = 0; t < 8; ++t) {  // rows j and 8 + j, or 4 + j and 12 + j
      const int first = t / 2 + t % 2 * 4;
      const __m512 low = _mm512_mul_ps(codes, _mm512_set1_ps(scales[first]));
      const __m512 high = _mm512_mul_ps(codes, _mm512_set1_ps(scales[first + 8]));
      _mm512_store_si512(tables_[t], reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    }
  }
  void store(__m512i quads, int j, act_t* to) const {
    KT_UNROLL for (int h = 0; h < 2; ++h, to += 2 * kLanes) {
      const __m512i index = _mm512_ternarylogic_epi32(h == 0 ? quads : _mm512_srli_epi16(quads, 8),
                                                      _mm512_set1_epi32(0x000f000f),
                                                      _mm512_set1_epi32(0x00100000), kAndOr);
      _mm512_storeu_si512(to,
                          _mm512_permutexvar_epi16(index, _mm512_load_si512(tables_[2 * j + h])));
    }
  }

 private:
  alignas(64) std::uint16_t tables_[8][2 * kLanes];
};

template <class F>
concept RowScaledCodes = requires { F::kIntegers; } && !F::kIntegers.grouped;

template <class F, Axis axis>
struct CodesUnpacker {
  using Block = typename F::Block;
  static constexpr bool kCodes = true;
  static constexpr bool kNibbles = Block::kColumns == 32;
  // Both halves of a byte at once along k, where they are of the same outputs.
  static constexpr int kColumns = axis == Axis::k ? Block::kColumns : kLanes;
  static constexpr int kSpan = kColumns / kLanes * Block::kSpan;

  static const std::byte* row_of_blocks(const Packed& w, int row) {
    return w.data + row / kLanes * Block::group_bytes(w.k);
  }

  void to_row(const Packed& w, int row, int column) {
    blocks_ = row_of_blocks(w, row);
    take_scales(w, row, column);
  }
  void unpack(const Packed& w, int row, int column, act_t* to) {
    if constexpr (GroupedCodes<F> && axis == Axis::n) {
      if (column >= end_) take_scales(w, row, column);
    }
    const std::byte* const block = Block::block(blocks_, column);
    __m512i quads[4];
    if constexpr (axis == Axis::k) {
      Avx512Vector::transpose(block, quads);
    } else {
      KT_UNROLL for (int j = 0; j < 4; ++j) {
        quads[j] = VbmiQuads::interleave(_mm512_loadu_si512(block + 64 * j));
      }
    }
    const int first = column % Block::kColumns / kLanes;
    KT_UNROLL for (int half = 0; half < kColumns / kLanes; ++half) {
      KT_UNROLL for (int j = 0; j < 4; ++j, to += 4 * kLanes) {
        values_.store(first + half == 0 ? quads[j] : _mm512_srli_epi16(quads[j], 4), j, to);
      }
    }
  }

 private:
  void take_scales(const Packed& w, int row, int column) {
    if constexpr (GroupedCodes<F> && axis == Axis::n) end_ = (column / w.group + 1) * w.group;
    values_.to(w, row, column);
  }

  const std::byte* blocks_ = nullptr;
  int end_ = 0;  // of the columns that share the scales
  std::conditional_t<GroupedCodes<F> && axis == Axis::n, GroupValues<F>,
                     std::conditional_t<kNibbles, NibbleValues<F, axis>, ByteValues<F, axis>>>
      values_;
};

template <class F, Axis axis>
using CodesOf = Unpacking<CodesUnpacker<F, axis>, axis>;
template <class F, Axis axis>
using ValuesOf = Unpacking<BlockUnpacker<F, axis>, axis>;

// Where a sum of 16 stands in A: along k a quad is four columns one after the other, along n rows
// j, 4 + j, 8 + j and 12 + j.
template <Axis axis>
struct QuadOrder {
  static constexpr int place(int s) {
    const int quad = axis == Axis::k ? s % kLanes / 4 : s % 4;
    const int of_quad = axis == Axis::k ? s % 4 : s % kLanes / 4;
    return s / kLanes * kLanes + 4 * quad + of_quad % 2 * 2 + of_quad / 2;
  }
};

// A in bf16 for panels of codes, as Avx512Bf16::pack_columns has it.
template <class F, Axis axis>
void pack_for_codes(const Rows& a, const Packed& /*w*/, int m, int s0, int valid, int length,
                    act_t* out, int lda, int next) {
  Avx512Bf16::pack_columns<QuadOrder<axis>>(a, 0, m, s0, valid, length, out, lda, next);
}

// Along n a row's scale is A's: its columns are multiplied and rounded. Even columns are words
// shifted up and odd ones words as they are, so the scales are parted likewise first.
template <class F, Axis axis>
  requires(RowScaledCodes<F> && axis == Axis::n)
void pack_for_codes(const Rows& a, const Packed& w, int m, int s0, int valid, int length,
                    act_t* out, int lda, int next) {
  constexpr int kStep = 2 * kLanes;
  alignas(64) float scales[kDepthOfA / kStep][2][kLanes];
  for (int s = 0; s < length; ++s) {
    scales[s / kStep][s % 2][s % kStep / 2] = s < valid ? F::sum_scales(w)[s0 + s] : 0.0F;
  }
  alignas(64) std::uint16_t order[kStep];
  for (int s = 0; s < kStep; ++s) {
    order[QuadOrder<axis>::place(s)] = static_cast<std::uint16_t>(s % 2 * kLanes + s / 2);
  }
  const __m512i index = _mm512_load_si512(order);
  for (int i = 0; i < m; ++i, out += lda) {
    const auto* const row = reinterpret_cast<const act_t*>(a.row(i)) + s0;
    const auto* const later = reinterpret_cast<const act_t*>(a.row(min(m - 1, i + 2))) + s0;
    act_t* to = out;
    for (int j = 0; j < length; j += kStep, to += next) {
      __builtin_prefetch(later + j);
      const __m512i v = Avx512Bf16::pair_columns(reinterpret_cast<const std::byte*>(row + j), false,
                                                 0, valid - j);
      const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
      const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(-1 << 16)));
      const auto& scale = scales[j / kStep];
      const __m512bh scaled = _mm512_cvtne2ps_pbh(_mm512_mul_ps(odd, _mm512_load_ps(scale[1])),
                                                  _mm512_mul_ps(even, _mm512_load_ps(scale[0])));
      _mm512_storeu_si512(to, _mm512_permutexvar_epi16(index, reinterpret_cast<__m512i>(scaled)));
    }
  }
}

// c[i][j] += scale * sums[i][j], for m rows of `vectors` times 16 outputs from `output` on, of sums
// from `column` on.
template <class F>
void add_scaled(int m, const Packed& w, int output, int column, int vectors, const float* sums,
                int ld, float* c, int ldc) {
  for (int v = 0; v < vectors; ++v, output += kLanes, sums += kLanes, c += kLanes) {
    alignas(64) float scales[kLanes];
    F::template output_scales<Avx512Vector>(w, output, column, scales);
    const int exponent = unit_exponent<F, Axis::k>(w, output, column);
    const __m512 factor =
        _mm512_mul_ps(_mm512_load_ps(scales), _mm512_set1_ps(power_of_two(-exponent)));
    for (std::int64_t i = 0; i < m; ++i) {
      const __m512 sum = _mm512_loadu_ps(sums + i * ld);
      _mm512_storeu_ps(c + i * ldc, _mm512_fmadd_ps(sum, factor, _mm512_loadu_ps(c + i * ldc)));
    }
  }
}

}  // namespace
}  // namespace kt
