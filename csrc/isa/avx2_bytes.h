// Integer products on AVX2 of weights of 4 bits: four products of 8 bits per dword by VPMADDUBSW,
// whose two sums of two are words. Eight of them fit: 8 x 2 x 15 x 127 is 30,480 of 32,767.
//
// For 16 products that is half an instruction of multiplication and half of addition, of words
// (avx2_words.h) one of each. The tile's integer sums are those of words; the sums of int32, which
// are needed every eighth step, lie in L1.
#pragma once

namespace kt {
namespace {

struct Avx2Bytes : Avx2Codes, Avx2FewRows<Avx2Bytes> {
  using A = std::int8_t;
  using Panel = std::uint8_t;
  static constexpr int kStep = 4;
  static constexpr int kShortSteps = 8;
  static constexpr int kRun = kShortSteps * kStep;  // as in avx2_words.h

  static Ints dot(Ints acc, Ints weights, Ints x) {
    const Ints products = _mm256_maddubs_epi16(weights, x);
    __asm__("vpaddw %1, %0, %0" : "+x"(acc) : "x"(products));  // as in avx2_words.h
    return acc;
  }
  static Ints whole(Ints sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
  static Ints add_sums(Ints acc, Ints sums) { return add(acc, whole(sums)); }

  static Ints along_k(Bytes v, int /*piece*/) { return v; }
  static Ints along_n(Bytes quads, int /*step*/) { return quads; }

  template <class F>
  static void unpack_k(const std::byte* group, int column, int depth, Panel* out) {
    for (int k = 0; k < depth; k += kLanes, out += kLanes * kLanes) {
      each_quad<F>(group, column + k, [out](Bytes quads, int h, int j) {
        store_register(out + 4 * kLanes * j + 2 * kLanes * h, quads);
      });
    }
  }

  template <class F, class Decoder>
  static void unpack_n(const std::byte* group, int column, const Decoder& decode, Panel* out) {
    each_interleaved<F>(group, column, decode, [out](Bytes quads, int h, int j) {
      store_register(out + 4 * kLanes * j + 2 * kLanes * h, quads);
    });
  }

  template <Axis axis>
  static Ints round(const float* values, A* out) {
    Ints low;
    Ints high;
    to_codes(values, low, high);
    __m128i codes = to_bytes(low, high);
    if constexpr (axis == Axis::n) {
      codes = _mm_shuffle_epi8(codes,
                               _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), codes);
    return _mm256_hadd_epi32(low, high);
  }
  // Lane l of 16 columns' codes is the l-th quad.
  static void starts(Ints sum, std::int32_t factor, std::int32_t* out) {
    store_starts(_mm_shuffle_epi32(add_neighbours(sum), 0xd8), factor, out);
  }
};

}  // namespace
}  // namespace kt
