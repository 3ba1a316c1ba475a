// Integer products on AVX2: two products of 16 bits per dword by VPMADDWD, exact. (VPMADDUBSW would
// take bytes, but saturates its sums of two.)
//
// Tile: 3 rows x 16 columns, 6 integer and 6 floating-point sums of the 16 registers, 2 for the
// panel's vectors, the broadcast, and a product, which has to be added on its own.
#pragma once

namespace kt {
namespace {

// A quad of bytes (0, 1, 2, 3) becomes two pairs of words, (0, 2) and (1, 3), by a mask and a
// shift.
struct Avx2Integer {
  using Vector = Avx2;
  using Ints = __m256i;
  using Bytes = __m256i;  // two rows of a block, 16 columns each
  using A = std::int16_t;
  using Panel = std::int16_t;
  static constexpr int kParts = 8;
  static constexpr int kRows = 3;
  static constexpr int kVectors = 1;
  static constexpr int kStep = 2;
  static constexpr int kDirectRows = 0;  // always by way of a panel
  static constexpr int kStarts = 1;

  static Ints set1(std::int32_t x) { return _mm256_set1_epi32(x); }
  static Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  static __m256 to_floats(Ints v) { return _mm256_cvtepi32_ps(v); }
  static __m256i load_register(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
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

  static Ints load_panel(const Panel* p) { return load_register(p); }
  static Ints broadcast(const A* a) {
    std::int32_t pair = 0;
    __builtin_memcpy(&pair, a, 4);
    return _mm256_set1_epi32(pair);
  }
  static Ints dot(Ints acc, Ints weights, Ints x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(weights, x));
  }
  static constexpr int panel_size(int depth) { return depth * kLanes; }

  // Eight outputs' quads to the two steps of pairs that they are.
  static void store_pairs(Panel* out, Bytes quads) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm256_and_si256(quads, _mm256_set1_epi16(255)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * kLanes), _mm256_srli_epi16(quads, 8));
  }

  template <class F>
  static void unpack_k(const std::byte* group, int column, int depth, Panel* out) {
    for (int k = 0; k < depth; k += kLanes, out += kLanes * kLanes) {
      KT_UNROLL for (int h = 0; h < 2; ++h) {
        Bytes v[4];
        KT_UNROLL for (int j = 0; j < 4; ++j) {
          v[j] = F::Block::template load<Avx2Integer>(group, column + k, 2 * j + h);
        }
        Bytes p[4];
        Avx2::transpose(v, p);
        KT_UNROLL for (int j = 0; j < 4; ++j) store_pairs(out + 4 * kLanes * j + kLanes * h, p[j]);
      }
    }
  }

  // 16 rows x 16 columns; a quad is rows j, 4 + j, 8 + j and 12 + j of one column.
  template <class F, class Decoder>
  static void unpack_n(const std::byte* group, int column, const Decoder& decode, Panel* out) {
    KT_UNROLL for (int j = 0; j < 4; ++j, out += 4 * kLanes) {
      // Lanes: rows j and 4 + j; 8 + j and 12 + j. Pairs of words: rows (j, 8 + j), (4 + j, 12 +
      // j).
      const Bytes low = decode(F::Block::template load<Avx2Integer>(group, column, 2 * j), 2 * j);
      const Bytes high =
          decode(F::Block::template load<Avx2Integer>(group, column, 2 * j + 1), 2 * j + 1);
      const __m256i first = _mm256_unpacklo_epi8(low, high);   // columns 0-7 of both pairs
      const __m256i second = _mm256_unpackhi_epi8(low, high);  // columns 8-15
      const __m256i rows_a = _mm256_permute2x128_si256(first, second, 0x20);  // (j, 8 + j)
      const __m256i rows_b = _mm256_permute2x128_si256(first, second, 0x31);  // (4 + j, 12 + j)
      store_words(out, rows_a);
      store_words(out + 2 * kLanes, rows_b);
    }
  }
  // 16 pairs of bytes to 16 pairs of words.
  static void store_words(Panel* out, __m256i pairs) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm256_cvtepu8_epi16(_mm256_castsi256_si128(pairs)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + kLanes),
                        _mm256_cvtepu8_epi16(_mm256_extracti128_si256(pairs, 1)));
  }

  // In the order of the panel's sums: the second and the third of each quad change places.
  template <Axis axis>
  static Ints round(const float* values, A* out) {
    const Ints low = _mm256_cvtps_epi32(_mm256_loadu_ps(values));
    const Ints high = _mm256_cvtps_epi32(_mm256_loadu_ps(values + 8));
    alignas(32) std::int32_t codes[kLanes];
    _mm256_store_si256(reinterpret_cast<__m256i*>(codes), low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(codes + 8), high);
    KT_UNROLL for (int p = 0; p < kLanes; ++p) {
      const int member = p % 4 == 1 ? 2 : p % 4 == 2 ? 1 : p % 4;  // of the quad
      const int from = axis == Axis::k ? p / 4 * 4 + member : 4 * member + p / 4;
      out[p] = static_cast<A>(codes[from]);
    }
    return _mm256_add_epi32(low, high);
  }
  static void starts(Ints v, std::int32_t factor, std::int32_t* out) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    out[0] = factor * _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
  }
};

}  // namespace
}  // namespace kt
