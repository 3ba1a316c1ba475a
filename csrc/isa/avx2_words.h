// Integer products on AVX2 of weights of 8 bits: two products of 16 bits per dword by VPMADDWD,
// exact. (VPMADDUBSW would take bytes, but saturates its sums of two.)
#pragma once

namespace kt {
namespace {

// A quad of bytes (0, 1, 2, 3) becomes two pairs of words, (0, 2) and (1, 3), by a mask and a
// shift.
struct Avx2Words : Avx2Codes, Avx2FewRows<Avx2Words> {
  using A = std::int16_t;
  using Panel = std::int16_t;
  static constexpr int kStep = 2;
  static constexpr int kRun = kGranule;  // rows of weights that few rows of A sum up at once

  static Ints dot(Ints acc, Ints weights, Ints x) {
    const Ints products = _mm256_madd_epi16(weights, x);
    // Through the intrinsic g++ 12 copies the sums: six instructions more to a step of 17.
    __asm__("vpaddd %1, %0, %0" : "+x"(acc) : "x"(products));
    return acc;
  }

  // For few rows (avx2_few_rows.h): the columns of a register that a piece of A's codes meets, the
  // sums of a quad that a step meets, sums as int32, and those added up.
  static Ints along_k(Bytes v, int piece) {
    const __m256i columns = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 2, -1, 1, -1, 3, -1, 4, -1, 6, -1, 5, -1, 7, -1));
    return _mm256_shuffle_epi8(piece == 0 ? v : _mm256_srli_si256(v, 8), columns);
  }
  static Ints along_n(Bytes quads, int step) {
    return step == 0 ? _mm256_and_si256(quads, _mm256_set1_epi16(255))
                     : _mm256_srli_epi16(quads, 8);
  }
  static Ints whole(Ints sums) { return sums; }
  static Ints add_sums(Ints acc, Ints sums) { return add(acc, sums); }

  template <class F>
  static void unpack_k(const std::byte* group, int column, int depth, Panel* out) {
    for (int k = 0; k < depth; k += kLanes, out += kLanes * kLanes) {
      each_quad<F>(group, column + k, [out](Bytes quads, int h, int j) {
        Panel* const to = out + 4 * kLanes * j + kLanes * h;
        store_register(to, along_n(quads, 0));
        store_register(to + 2 * kLanes, along_n(quads, 1));
      });
    }
  }

  // 16 rows x 16 columns.
  template <class F, class Decoder>
  static void unpack_n(const std::byte* group, int column, const Decoder& decode, Panel* out) {
    each_interleaved<F>(group, column, decode, [out](Bytes quads, int h, int j) {
      Panel* const to = out + 4 * kLanes * j + kLanes * h;
      store_register(to, along_n(quads, 0));
      store_register(to + 2 * kLanes, along_n(quads, 1));
    });
  }

  // In the order of the panel's sums: the second and the third of each quad change places.
  template <Axis axis>
  static Ints round(const float* values, A* out) {
    const __m128i columns = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    const __m128i rows = _mm_setr_epi8(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
    Ints low;
    Ints high;
    to_codes(values, low, high);
    const __m128i codes = _mm_shuffle_epi8(to_bytes(low, high), axis == Axis::k ? columns : rows);
    store_register(out, _mm256_cvtepi8_epi16(codes));
    return _mm256_add_epi32(low, high);
  }
  // Of eight columns, and those eight further on, lane l has the l-th pair in the panel's order.
  static void starts(Ints sum, std::int32_t factor, std::int32_t* out) {
    store_starts(add_neighbours(_mm256_shuffle_epi32(sum, 0xd8)), factor, out);
  }
};

}  // namespace
}  // namespace kt
