// What the AVX-512 variants share: the elementwise vocabulary, the transposition of a block, and
// the tile's loop.
//
// Tile: 6 rows x 64 columns in 24 of the 32 registers, 4 for the panel's vectors, the broadcast
// folded into the product. Two products per cycle at a latency of 4 to 6 want 12 sums at most, and
// the 10 loads per 24 products leave the load ports slack.
#pragma once

// How many bytes ahead few rows fetch the weights. On Intel's CPUs what is fetched a page ahead, or
// more, comes as slowly as what is not fetched at all: two threads of a Sapphire Rapids read 27
// GB/s so, and 33 (28 to 29 a minute later) at 1 and 2 KiB, which makes the hardware's prefetcher
// go on from page to page. One token of DeepSeek-V3's widths takes 6 to 14% less at 3 KiB than
// at 16.
#if !defined(KT_FETCH_AHEAD)
#define KT_FETCH_AHEAD 3072
#endif

namespace kt {
namespace {

// The elementwise vocabulary, shared by both variants.
struct Avx512Vector {
  static constexpr int kWidth = 16;
  using F = __m512;

  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static F widen(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
  static F load(const act_t* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store(act_t* p, F v) {  // rounds to nearest even; NaN stays NaN
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i chosen = _mm512_mask_blend_epi32(is_nan, rounded, quiet);
    // The high words, gathered into the low half by one permute.
    alignas(64) std::uint16_t high[32];
    for (int i = 0; i < 32; ++i) high[i] = static_cast<std::uint16_t>(2 * i + 1);
    const __m512i packed = _mm512_permutexvar_epi16(_mm512_load_si512(high), chosen);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(packed));
  }
  static F add_product(F sum, F x, F y) { return _mm512_fmadd_ps(x, y, sum); }
  static F minimum(F a, F b) { return _mm512_min_ps(a, b); }
  static F maximum(F a, F b) { return _mm512_max_ps(a, b); }
  // Of magnitudes that are >= 0, NaN above infinity: as integers, bits have their order.
  static F larger(F most, F x) {
    const __m512i b = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(most), b));
  }
  static float largest(F v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m256i half =
        _mm256_max_epi32(_mm512_castsi512_si256(bits), _mm512_extracti64x4_epi64(bits, 1));
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(m));
  }
  static F scale_by_power(F x, F power) {
    const __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(power), 23);
    return _mm512_mul_ps(
        x, _mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(0x3f800000))));
  }
  static void from_half(const std::uint16_t* in, float* out) {
    store(out, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in))));
  }
  static float sum(F v) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

  // The four 4-byte columns of a block's 16 rows: vector p of the result holds column p of rows
  // 0 .. 15 in order.
  static void transpose(const __m512i (&v)[4], __m512i (&p)[4]) {
    const __m512i lo01 = _mm512_unpacklo_epi32(v[0], v[1]);
    const __m512i hi01 = _mm512_unpackhi_epi32(v[0], v[1]);
    const __m512i lo23 = _mm512_unpacklo_epi32(v[2], v[3]);
    const __m512i hi23 = _mm512_unpackhi_epi32(v[2], v[3]);
    p[0] = _mm512_unpacklo_epi64(lo01, lo23);
    p[1] = _mm512_unpackhi_epi64(lo01, lo23);
    p[2] = _mm512_unpacklo_epi64(hi01, hi23);
    p[3] = _mm512_unpackhi_epi64(hi01, hi23);
  }
  static void transpose(const std::byte* block, __m512i (&p)[4]) {
    __m512i v[4];
    KT_UNROLL for (int j = 0; j < 4; ++j) v[j] = _mm512_loadu_si512(block + 64 * j);
    transpose(v, p);
  }

  // Bytes ahead along k, where a group's blocks follow each other. A constant: with the distance in
  // a register g++ orders the loop in another way, which takes a tenth longer.
  static constexpr int kPrefetchAlongK = KT_FETCH_AHEAD;
  static void prefetch(const std::byte* p, int bytes) {
    for (int line = 0; line < bytes; line += 64) __builtin_prefetch(p + line, 0, 2);
  }
};

// Steps of one dword of A and one vector of the panel; `Variant` says what they hold and how they
// are multiplied.
template <class Variant, int rows, int vectors>
void avx512_tile(const typename Variant::A* a, int lda, const typename Variant::Panel* panel,
                 int depth, float* c, int ldc) {
  __m512 acc[rows][vectors];
  KT_UNROLL for (int i = 0; i < rows; ++i) {
    KT_UNROLL for (int j = 0; j < vectors; ++j) acc[i][j] = _mm512_loadu_ps(c + i * ldc + 16 * j);
  }
  const int next = Variant::panel_size(depth);
  const int steps = depth / Variant::kStep;
  for (int k = 0; k < steps; ++k, panel += kLanes * Variant::kStep) {
    typename Variant::B b[vectors];
    KT_UNROLL for (int j = 0; j < vectors; ++j) b[j] = Variant::load_panel(panel + j * next);
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      const auto x = Variant::broadcast(a + i * lda + k * Variant::kStep);
      KT_UNROLL for (int j = 0; j < vectors; ++j) acc[i][j] = Variant::dot(acc[i][j], x, b[j]);
    }
  }
  KT_UNROLL for (int i = 0; i < rows; ++i) {
    KT_UNROLL for (int j = 0; j < vectors; ++j) _mm512_storeu_ps(c + i * ldc + 16 * j, acc[i][j]);
  }
}

}  // namespace
}  // namespace kt
