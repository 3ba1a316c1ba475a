// What the integer products on AVX-512 share (avx512_vnni.h, avx512_madd.h): registers of codes.
//
// Tile: 3 rows x 64 columns, 12 integer and 12 floating-point sums, 4 registers for the panel's
// vectors and one for the broadcast.
#pragma once

namespace kt {
namespace {

// Registers of codes: four rows of a block, 16 columns each.
struct Avx512Bytes {
  using Vector = Avx512Vector;
  using Ints = __m512i;
  using Bytes = __m512i;
  static constexpr int kParts = 4;
  static constexpr int kRows = 3;
  static constexpr int kVectors = 4;
  static constexpr int kPanelDepth = 128;  // 64 outputs of 128 sums are 8 KiB, or 16 of words

  static Ints set1(std::int32_t x) { return _mm512_set1_epi32(x); }
  static Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static __m512 to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
  // Loaded once and kept: g++ 12 would load a register again for every product that takes it (15
  // loads to a step of 12 products instead of 7).
  static __m512i load_once(const void* p) {
    __m512i v = _mm512_loadu_si512(p);
#if !defined(KT_MODEL)
    __asm__("" : "+v"(v));
#endif
    return v;
  }
  static Bytes load_bytes(const std::byte* p) { return load_once(p); }
  static Bytes low_halves(Bytes v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
  static Bytes high_halves(Bytes v) {
    return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
  }
  static Bytes lookup(Bytes table, Bytes codes) { return _mm512_shuffle_epi8(table, codes); }

  // Of row r the table steps[r] * (c - 8), c = 0 .. 15, rounded, 128 added: rows as a block's
  // vector has them, row 4 l + j in lane l of vector j. VPMULHRSW rounds a product of words >> 15,
  // so the factors carry 2^4 and 2^11.
  static void make_tables(const float* steps, Bytes (&tables)[kParts]) {
    const __m512i fixed =
        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(steps), _mm512_set1_ps(2048.0F)));
    const __m512i words = _mm512_or_si512(_mm512_and_si512(fixed, _mm512_set1_epi32(0xffff)),
                                          _mm512_slli_epi32(fixed, 16));
    KT_UNROLL for (int j = 0; j < kParts; ++j) {  // dword j of each lane, to all of it
      tables[j] = table(_mm512_shuffle_epi8(words, _mm512_set1_epi32(0x03020100 + j * 0x04040404)));
    }
  }
  static Bytes table(__m512i steps) {
    const __m512i low =
        _mm512_broadcast_i32x4(_mm_setr_epi16(-128, -112, -96, -80, -64, -48, -32, -16));
    const __m512i high = _mm512_broadcast_i32x4(_mm_setr_epi16(0, 16, 32, 48, 64, 80, 96, 112));
    return _mm512_xor_si512(
        _mm512_packs_epi16(_mm512_mulhrs_epi16(low, steps), _mm512_mulhrs_epi16(high, steps)),
        _mm512_set1_epi8(-128));
  }

  // Tables lie as the rows do, one to a lane, and are looked up before the rows are interleaved.
  static constexpr bool kLooksUpQuads = false;

  // 16 columns of four rows, column by column: byte r of dword c is column c of the r-th row. First
  // the dwords across lanes, then the bytes within.
  static Bytes interleave(Bytes v) {
    const __m512i dwords = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(dwords, v), bytes);
  }
};

}  // namespace
}  // namespace kt
