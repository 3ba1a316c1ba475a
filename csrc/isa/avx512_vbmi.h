// AVX-512 with VBMI (Ice Lake, Zen 4 and later): VPERMB puts any byte of a register in any place,
// or looks it up in a table of 64 bytes (Intel SDM vol. 2, "VPERMB"). For integer products along n
// that is one shuffle less for every four rows, on the one port that shuffles; the tables of four
// rows are one register, which serves codes that are interleaved already.
#pragma once

namespace kt {
namespace {

struct VbmiQuads {
  static constexpr bool kLooksUpQuads = true;

  static __m512i interleave(__m512i v) {
    alignas(64) std::uint8_t from[64];
    for (int i = 0; i < 64; ++i) from[i] = static_cast<std::uint8_t>(i % 4 * 16 + i / 4);
    return _mm512_permutexvar_epi8(_mm512_load_si512(from), v);
  }
  // Byte r of each dword in the r-th lane of the table.
  static __m512i lookup(__m512i table, __m512i codes) {
    return _mm512_permutexvar_epi8(_mm512_or_si512(codes, _mm512_set1_epi32(0x30201000)), table);
  }
};

struct Avx512Vbmi : VnniWith<VbmiQuads> {};

}  // namespace
}  // namespace kt
