// AVX-512 without a 16-bit product: fp32 products of weights widened in L1. Variants for integers:
// without and with VNNI (Skylake-SP, Cascade Lake), and with VBMI (Ice Lake).
#pragma once

namespace kt {
namespace {

struct Avx512F32 : Avx512Vector {
  static constexpr const char* kName = "avx512_f32";
  static constexpr int kRows = 6;
  static constexpr int kVectors = 4;
  static constexpr int kDirectRows = 0;  // always by way of a panel
  static constexpr int kDirectTiles = 0;
  static constexpr int kDirectLength = 0;
  static constexpr int kDirectDepth = 0;
  static constexpr int kDirectVectors = 0;
  static constexpr int kDepth = 64;  // 4 panels of 64 x 16 fp32: 16 KiB, half of L1
  static constexpr int kStep = 1;
  using Integer = struct Avx512Madd;
  using A = float;
  using Panel = float;
  using B = __m512;

  static B load_panel(const float* p) { return _mm512_loadu_ps(p); }
  static B broadcast(const float* a) { return _mm512_set1_ps(*a); }
  static F dot(F acc, B x, B b) { return _mm512_fmadd_ps(x, b, acc); }

  static constexpr int panel_size(int depth) { return depth * kLanes; }

  static void unpack_k(const std::byte* blocks, int depth, float* out) {
    for (int k = 0; k < depth; k += 8, blocks += 256) {
      __m512i p[4];
      transpose(blocks, p);
      KT_UNROLL for (int j = 0; j < 4; ++j, out += 2 * kLanes) {
        store(out, _mm512_castsi512_ps(_mm512_slli_epi32(p[j], 16)));
        store(out + kLanes, _mm512_castsi512_ps(_mm512_and_si512(p[j], _mm512_set1_epi32(-65536))));
      }
    }
  }

  static void unpack_n(const std::byte* blocks, std::int64_t stride, int depth, float* out) {
    for (int g = 0; g < depth; g += kLanes, blocks += stride) {
      KT_UNROLL for (int r = 0; r < kLanes; ++r, out += kLanes) {
        const auto* const p = reinterpret_cast<const __m128i*>(blocks + ((r % 4) * 4 + r / 4) * 16);
        const __m256i row = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(p)),
                                                    _mm_loadu_si128(p + 256 / 16), 1);
        store(out, widen(row));
      }
    }
  }

  static int a_pieces(DType /*dtype*/) { return 1; }
  template <Axis axis>
  static void pack_a(const Rows& a, int /*piece*/, int m, int s0, int valid, int length, float* out,
                     int lda) {
    pack_a_float<Avx512F32>(a, m, s0, valid, length, out, lda);
  }

  template <int rows, int vectors>
  static void tile(const float* a, int lda, const float* panel, int depth, float* c, int ldc) {
    avx512_tile<Avx512F32, rows, vectors>(a, lda, panel, depth, c, ldc);
  }
};

struct Avx512F32Vnni : Avx512F32 {
  static constexpr const char* kName = "avx512_vnni";
  using Integer = struct Avx512Vnni;
};

struct Avx512F32Vbmi : Avx512F32 {
  static constexpr const char* kName = "avx512_vbmi";
  using Integer = struct Avx512Vbmi;
};

}  // namespace
}  // namespace kt
