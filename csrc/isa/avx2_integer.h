// What the integer products on AVX2 share (avx2_words.h, avx2_bytes.h): registers of codes, and how
// they are interleaved.
//
// Tile: 6 rows x 16 columns, 12 integer sums of the 16 registers, 2 for the panel's vectors, the
// broadcast, and a product, which has to be added on its own. The floating-point sums, which are
// needed once a granule, lie in L1. A step is 8 loads and 12 pairs of a product and an addition, of
// which Zen 3 starts three instructions a cycle: 8 cycles, measured 7.4. Half as many rows, whose
// floating-point sums fit in the registers, take 5 loads for 6 pairs: up to a tenth longer on S1.
#pragma once

namespace kt {
namespace {

struct Avx2Codes {
  using Vector = Avx2;
  using Ints = __m256i;
  using Bytes = __m256i;  // two rows of a block, 16 columns each
  static constexpr int kParts = 8;
  static constexpr int kRows = 6;
  static constexpr int kVectors = 1;
  // 16 outputs of 256 sums of words are 8 KiB. A tile of 128, which takes some 250 cycles, lost a
  // tenth by what a tile begins and ends with.
  static constexpr int kPanelDepth = 256;
  static constexpr int kDirectRows = 4;
  static constexpr int kStarts = 4;  // direct_k's sums are of four lanes

  static Ints set1(std::int32_t x) { return _mm256_set1_epi32(x); }
  static Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  static __m256 to_floats(Ints v) { return _mm256_cvtepi32_ps(v); }
  static __m256i load_register(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static void store_register(void* p, __m256i v) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), v);
  }
  static Bytes load_bytes(const std::byte* p) { return load_register(p); }
  static Bytes low_halves(Bytes v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
  static Bytes high_halves(Bytes v) {
    return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
  }
  static Bytes lookup(Bytes table, Bytes codes) { return _mm256_shuffle_epi8(table, codes); }

  // As on AVX-512 (avx512_integer.h): part 2 j + h holds rows 8 h + j and 8 h + 4 + j.
  static void make_tables(const float* steps, Bytes (&tables)[kParts]) {
    for (int h = 0; h < 2; ++h) {
      const __m256i fixed = _mm256_cvtps_epi32(
          _mm256_mul_ps(_mm256_loadu_ps(steps + 8 * h), _mm256_set1_ps(2048.0F)));
      const __m256i words = _mm256_or_si256(_mm256_and_si256(fixed, _mm256_set1_epi32(0xffff)),
                                            _mm256_slli_epi32(fixed, 16));
      tables[0 + h] = table(_mm256_shuffle_epi32(words, 0x00));
      tables[2 + h] = table(_mm256_shuffle_epi32(words, 0x55));
      tables[4 + h] = table(_mm256_shuffle_epi32(words, 0xaa));
      tables[6 + h] = table(_mm256_shuffle_epi32(words, 0xff));
    }
  }
  static Bytes table(__m256i steps) {
    const __m256i low =
        _mm256_broadcastsi128_si256(_mm_setr_epi16(-128, -112, -96, -80, -64, -48, -32, -16));
    const __m256i high =
        _mm256_broadcastsi128_si256(_mm_setr_epi16(0, 16, 32, 48, 64, 80, 96, 112));
    return _mm256_xor_si256(
        _mm256_packs_epi16(_mm256_mulhrs_epi16(low, steps), _mm256_mulhrs_epi16(high, steps)),
        _mm256_set1_epi8(-128));
  }

  static Ints load_panel(const void* p) { return load_register(p); }
  // A step's codes of A: a pair of words, or a quad of bytes.
  static Ints broadcast(const void* a) {
    std::int32_t codes = 0;
    __builtin_memcpy(&codes, a, 4);
    return _mm256_set1_epi32(codes);
  }
  static constexpr int panel_size(int depth) { return depth * kLanes; }

  // Quads of four columns of eight rows, in order: put(quads, half of the rows, quad's number).
  template <class F, class Put>
  static void each_quad(const std::byte* group, int column, Put put) {
    KT_UNROLL for (int h = 0; h < 2; ++h) {
      Bytes v[4];
      KT_UNROLL for (int j = 0; j < 4; ++j) {
        v[j] = F::Block::template load<Avx2Codes>(group, column, 2 * j + h);
      }
      Bytes p[4];
      Avx2::transpose(v, p);
      KT_UNROLL for (int j = 0; j < 4; ++j) put(p[j], h, j);
    }
  }

  // Of four rows the columns, eight to a register: quads of rows j, 4 + j, 8 + j and 12 + j of a
  // block's `which`-th 16 columns.
  template <class F, class Decoder>
  static void interleave(const std::byte* block, int which, const Decoder& decode, int j,
                         Bytes (&quads)[2]) {
    const auto load = [&](int part) {
      const Bytes stored = load_bytes(block + part * sizeof(Bytes));
      return decode(F::Block::template sixteen<Avx2Codes>(stored, which), part);
    };
    // Lanes: rows j and 4 + j; 8 + j and 12 + j.
    const Bytes low = load(2 * j);
    const Bytes high = load(2 * j + 1);
    // Lanes: (j, 8 + j) and (4 + j, 12 + j); the first eight columns, the others.
    const __m256i pairs[2] = {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    KT_UNROLL for (int h = 0; h < 2; ++h) {
      quads[h] = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(pairs[h], 0xd8), order);
    }
  }

  // Those of 16 columns of a group of rows, in order: put(quads, half of the columns, j).
  template <class F, class Decoder, class Put>
  static void each_interleaved(const std::byte* group, int column, const Decoder& decode, Put put) {
    KT_UNROLL for (int j = 0; j < 4; ++j) {
      Bytes quads[2];
      interleave<F>(F::Block::block(group, column), column % F::Block::kColumns / kLanes, decode, j,
                    quads);
      KT_UNROLL for (int h = 0; h < 2; ++h) put(quads[h], h, j);
    }
  }

  // 16 values to codes, eight to a register, and those as bytes in order.
  static void to_codes(const float* values, Ints& low, Ints& high) {
    low = _mm256_cvtps_epi32(_mm256_loadu_ps(values));
    high = _mm256_cvtps_epi32(_mm256_loadu_ps(values + 8));
  }
  static __m128i to_bytes(Ints low, Ints high) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
  // Neighbours added up, of eight sums' four are left.
  static __m128i add_neighbours(Ints v) {
    return _mm_hadd_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  }
  static void store_starts(__m128i sums, std::int32_t factor, std::int32_t* out) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm_mullo_epi32(sums, _mm_set1_epi32(factor)));
  }
};

}  // namespace
}  // namespace kt
