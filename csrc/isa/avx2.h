// AVX2 with FMA: fp32 products of weights widened in L1, since there is no 16-bit product.
//
// Tile: 6 rows x 16 columns in 12 of the 16 registers, 2 for the panel's vectors, one broadcast.
// Two FMA per cycle at a latency of 4 want 8 independent sums: 12 are enough. Per step of k there
// are 8 loads for 12 FMA, so the loads (2 to 3 a cycle) have slack.
#pragma once

namespace kt {
namespace {

struct Avx2 {
  static constexpr const char* kName = "avx2";
  static constexpr int kRows = 6;
  static constexpr int kVectors = 1;
  static constexpr int kDepth = 256;  // 256 x 16 fp32: a panel of 16 KiB, half of L1
  static constexpr int kWidth = 8;
  // Up to one tile's rows the weights go straight from the block into the product (below).
  static constexpr int kDirectRows = 6;
  static constexpr int kDirectLength = 128;  // along k, the least
  // Along n: 8 groups of rows, each a stream of 512 bytes per step, prefetched one step ahead. On
  // Zen 3 with 4 rows, forward and backward at DeepSeek-V3 widths: 290 ms; 335 with 64 rows and two
  // steps, 310 with 256 rows.
  static constexpr int kDirectDepth = 128;
  static constexpr int kDirectVectors = 1;
  static constexpr int kPrefetchAlongN = 512;

  using Integer = struct Avx2Words;
  using Integer4 = struct Avx2Bytes;
  using A = float;
  using Panel = float;
  using F = __m256;

  static F set1(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static F widen(__m128i h) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
  }
  static F load(const act_t* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store(act_t* p, F v) {  // rounds to nearest even; NaN stays NaN
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256 is_nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    const __m256i chosen =
        _mm256_srli_epi32(_mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded),
                                                               _mm256_castsi256_ps(quiet), is_nan)),
                          16);
    const __m128i half =
        _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
  }
  static F add_product(F sum, F x, F y) { return _mm256_fmadd_ps(x, y, sum); }
  static F minimum(F a, F b) { return _mm256_min_ps(a, b); }
  static F maximum(F a, F b) { return _mm256_max_ps(a, b); }
  // Of magnitudes that are >= 0, NaN above infinity: as integers, bits have their order.
  static F larger(F most, F x) {
    const __m256i b = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(most), b));
  }
  static float largest(F v) {
    const __m256i bits = _mm256_castps_si256(v);
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(m));
  }
  static F scale_by_power(F x, F power) {
    const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(power), 23);
    return x * _mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(0x3f800000)));
  }
  static void from_half(const std::uint16_t* in, float* out) {
    const auto* const p = reinterpret_cast<const __m128i*>(in);
    store(out, _mm256_cvtph_ps(_mm_loadu_si128(p)));
    store(out + 8, _mm256_cvtph_ps(_mm_loadu_si128(p + 1)));
  }
  static float sum(F v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

  static constexpr int panel_size(int depth) { return depth * kLanes; }

  // The 4-byte columns of eight rows of a block: lane l of register j is row 4 l + j before, and
  // register p holds column p of all eight rows, in order, after.
  static void transpose(const __m256i (&v)[4], __m256i (&p)[4]) {
    const __m256i lo01 = _mm256_unpacklo_epi32(v[0], v[1]);
    const __m256i hi01 = _mm256_unpackhi_epi32(v[0], v[1]);
    const __m256i lo23 = _mm256_unpacklo_epi32(v[2], v[3]);
    const __m256i hi23 = _mm256_unpackhi_epi32(v[2], v[3]);
    p[0] = _mm256_unpacklo_epi64(lo01, lo23);
    p[1] = _mm256_unpackhi_epi64(lo01, lo23);
    p[2] = _mm256_unpacklo_epi64(hi01, hi23);
    p[3] = _mm256_unpackhi_epi64(hi01, hi23);
  }

  // Columns 2 p and 2 p + 1 of eight rows, interleaved, to panel rows of fp32.
  static void store_pair(__m256i pair, float* out) {
    store(out, _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)));
    store(out + kLanes, _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(-65536))));
  }

  static void unpack_k(const std::byte* blocks, int depth, float* out) {
    for (int k = 0; k < depth; k += 8, blocks += 256, out += 8 * kLanes) {
      KT_UNROLL for (int half = 0; half < 2; ++half) {
        const auto* const p = reinterpret_cast<const __m256i*>(blocks) + half;
        __m256i v[4];
        KT_UNROLL for (int j = 0; j < 4; ++j) v[j] = _mm256_loadu_si256(p + 2 * j);
        __m256i pairs[4];
        transpose(v, pairs);
        KT_UNROLL for (int j = 0; j < 4; ++j) store_pair(pairs[j], out + 8 * half + 2 * kLanes * j);
      }
    }
  }

  static void unpack_n(const std::byte* blocks, std::int64_t stride, int depth, float* out) {
    for (int g = 0; g < depth; g += kLanes, blocks += stride) {
      KT_UNROLL for (int r = 0; r < kLanes; ++r, out += kLanes) {
        const auto* const p = reinterpret_cast<const __m128i*>(blocks + ((r % 4) * 4 + r / 4) * 16);
        store(out, widen(_mm_loadu_si128(p)));
        store(out + 8, widen(_mm_loadu_si128(p + 256 / 16)));
      }
    }
  }

  static int a_pieces(DType /*dtype*/) { return 1; }
  template <Axis axis>
  static void pack_a(const Rows& a, int /*piece*/, int m, int s0, int valid, int length, float* out,
                     int lda) {
    pack_a_float<Avx2>(a, m, s0, valid, length, out, lda);
  }

  template <int rows, int vectors>
  static void tile(const float* a, int lda, const float* panel, int depth, float* c, int ldc) {
    static_assert(vectors == 1);
    F acc[rows][2];
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      acc[i][0] = load(c + i * ldc);
      acc[i][1] = load(c + i * ldc + 8);
    }
    for (int k = 0; k < depth; ++k, panel += kLanes) {
      const F b0 = load(panel);
      const F b1 = load(panel + 8);
      KT_UNROLL for (int i = 0; i < rows; ++i) {
        const F x = _mm256_broadcast_ss(a + i * lda + k);
        acc[i][0] = _mm256_fmadd_ps(x, b0, acc[i][0]);
        acc[i][1] = _mm256_fmadd_ps(x, b1, acc[i][1]);
      }
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      store(c + i * ldc, acc[i][0]);
      store(c + i * ldc + 8, acc[i][1]);
    }
  }

  // Lanes sum along k: two rows at a time over a chunk of columns that stays in L1, 8 passes for
  // the group's 16 rows, each sum of 8 lanes kept in `partial` from chunk to chunk and reduced at
  // the end. Per 8 columns: 2 widened weights, rows loads of x, 2 * rows FMA. The next chunk's
  // lines are prefetched evenly over the passes.
  template <int rows>
  static void direct_k(const std::byte* blocks, int length, const float* a, int lda, float* c,
                       int ldc) {
    constexpr int kChunk = 512;  // columns: 16 KiB of weights
    F partial[kLanes][rows];
    for (auto& row : partial) {
      for (F& sum : row) sum = _mm256_setzero_ps();
    }
    for (int k0 = 0; k0 < length; k0 += kChunk) {
      const int count = min(kChunk, length - k0) / 8;
      const std::byte* const next = blocks + count * 256;
      for (int pass = 0; pass < 8; ++pass) {  // rows 4 l + j of lanes l = 2 * (pass % 2) and l + 1
        const int first = pass % 2 * 8 + pass / 2;
        F acc[rows][2];
        KT_UNROLL for (int i = 0; i < rows; ++i) {
          acc[i][0] = partial[first][i];
          acc[i][1] = partial[first + 4][i];
        }
        const std::byte* p = blocks + pass * 32;
        const float* x = a + k0;
        for (int b = 0; b < count; ++b, p += 256, x += 8) {
          __builtin_prefetch(next + (pass * count + b) * 32, 0, 2);
          const F w0 = widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
          const F w1 = widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + 1));
          KT_UNROLL for (int i = 0; i < rows; ++i) {
            const F v = load(x + i * lda);
            acc[i][0] = _mm256_fmadd_ps(v, w0, acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(v, w1, acc[i][1]);
          }
        }
        KT_UNROLL for (int i = 0; i < rows; ++i) {
          partial[first][i] = acc[i][0];
          partial[first + 4][i] = acc[i][1];
        }
      }
      blocks = next;
    }
    for (int i = 0; i < rows; ++i) {
      for (int half = 0; half < 2; ++half) {
        F sums[2];
        for (int q = 0; q < 2; ++q) {
          const int r = 8 * half + 4 * q;
          sums[q] = _mm256_hadd_ps(_mm256_hadd_ps(partial[r][i], partial[r + 1][i]),
                                   _mm256_hadd_ps(partial[r + 2][i], partial[r + 3][i]));
        }
        const F sum = _mm256_add_ps(_mm256_permute2f128_ps(sums[0], sums[1], 0x20),
                                    _mm256_permute2f128_ps(sums[0], sums[1], 0x31));
        float* const to = c + i * ldc + 8 * half;
        store(to, _mm256_add_ps(load(to), sum));
      }
    }
  }

  // Lanes are columns: the weights of a row are widened in registers and serve all rows of A.
  template <int rows>
  static void direct_n(const std::byte* blocks, std::int64_t stride, int /*vectors*/, int depth,
                       const float* a, int lda, float* c, int ldc) {
    F acc[rows][2];
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      acc[i][0] = load(c + i * ldc);
      acc[i][1] = load(c + i * ldc + 8);
    }
    for (int g = 0; g < depth; g += kLanes, blocks += stride, a += kLanes) {
      for (int line = 0; line < 512; line += 64) {
        __builtin_prefetch(blocks + kPrefetchAlongN + line, 0, 2);
      }
      KT_UNROLL for (int t = 0; t < kLanes; ++t) {  // in memory's order
        const int r = t % 4 * 4 + t / 4;
        const auto* const p = reinterpret_cast<const __m128i*>(blocks) + t;
        const F w0 = widen(_mm_loadu_si128(p));
        const F w1 = widen(_mm_loadu_si128(p + 256 / 16));
        KT_UNROLL for (int i = 0; i < rows; ++i) {
          const F x = _mm256_broadcast_ss(a + i * lda + r);
          acc[i][0] = _mm256_fmadd_ps(x, w0, acc[i][0]);
          acc[i][1] = _mm256_fmadd_ps(x, w1, acc[i][1]);
        }
      }
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      store(c + i * ldc, acc[i][0]);
      store(c + i * ldc + 8, acc[i][1]);
    }
  }
};

}  // namespace
}  // namespace kt
