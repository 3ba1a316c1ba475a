// Integer products on AVX-512 without VNNI (Skylake-SP): two products of 16 bits per dword by
// VPMADDWD, and an addition of its own.
#pragma once

namespace kt {
namespace {

// A quad of bytes (0, 1, 2, 3) becomes two pairs of words, (0, 2) and (1, 3), by a mask and a
// shift.
struct Avx512Madd : Avx512Bytes {
  static constexpr int kStep = 2;
  static constexpr int kDirectRows = 0;  // always by way of a panel
  static constexpr int kStarts = 1;
  using A = std::int16_t;
  using Panel = std::int16_t;

  static Ints load_panel(const Panel* p) { return load_once(p); }
  static Ints broadcast(const A* a) {
    std::int32_t pair = 0;
    __builtin_memcpy(&pair, a, 4);
    return _mm512_set1_epi32(pair);
  }
  static Ints dot(Ints acc, Ints weights, Ints x) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(weights, x));
  }
  static constexpr int panel_size(int depth) { return depth * kLanes; }

  static void store_pairs(Panel* out, Bytes quad) {
    _mm512_storeu_si512(out, _mm512_and_si512(quad, _mm512_set1_epi16(255)));
    _mm512_storeu_si512(out + 2 * kLanes, _mm512_srli_epi16(quad, 8));
  }

  template <class F>
  static void unpack_k(const std::byte* group, int column, int depth, Panel* out) {
    for (int k = 0; k < depth; k += kLanes) {
      Bytes v[4];
      KT_UNROLL for (int j = 0; j < 4; ++j) {
        v[j] = F::Block::template load<Avx512Madd>(group, column + k, j);
      }
      Bytes p[4];
      Avx512Vector::transpose(v, p);
      KT_UNROLL for (int j = 0; j < 4; ++j, out += 4 * kLanes) store_pairs(out, p[j]);
    }
  }

  template <class F, class Decoder>
  static void unpack_n(const std::byte* group, int column, const Decoder& decode, Panel* out) {
    KT_UNROLL for (int j = 0; j < 4; ++j, out += 4 * kLanes) {
      const Bytes v = decode(F::Block::template load<Avx512Madd>(group, column, j), j);
      store_pairs(out, interleave(v));
    }
  }

  template <Axis axis>
  static Ints round(const float* values, A* out) {
    const __m512i columns = _mm512_setr_epi32(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    const __m512i rows = _mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
    const __m512i codes = _mm512_cvtps_epi32(_mm512_loadu_ps(values));
    const __m256i v =
        _mm512_cvtsepi32_epi16(_mm512_permutexvar_epi32(axis == Axis::k ? columns : rows, codes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), v);
    return codes;
  }

  static void starts(Ints sum, std::int32_t factor, std::int32_t* out) {
    const __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    s = _mm_hadd_epi32(s, s);
    out[0] = factor * _mm_cvtsi128_si32(_mm_hadd_epi32(s, s));
  }
};

}  // namespace
}  // namespace kt
