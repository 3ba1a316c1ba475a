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
  // Up to two tiles' rows the weights go straight from the block into the product (below), of the
  // second tile from L2. With 7 to 12 rows of DeepSeek's widths that takes 5 to 17% less than by
  // way of panels along k, 15 to 29% along n (docs/peers.md); a third tile gains nothing sure.
  static constexpr int kDirectRows = 6;
  static constexpr int kDirectTiles = 2;
  static constexpr int kDirectLength = 128;  // along k, the least
  // Along n: 4 groups of rows, each a stream of 512 bytes per step, prefetched one step ahead. On
  // Zen 3, 4 rows at DeepSeek-V3's widths: 8 groups take up to 1.4 times as long, two steps 1.1.
  static constexpr int kDirectDepth = 64;
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

  // Of sixteen bf16, as fp32.
  static F even(__m256i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); }
  static F odd(__m256i v) {
    return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(-65536)));
  }

  // Columns 2 p and 2 p + 1 of eight rows, interleaved, to panel rows of fp32.
  static void store_pair(__m256i pair, float* out) {
    store(out, even(pair));
    store(out + kLanes, odd(pair));
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

  // Few rows widen weights without crossing lanes: a register of a block is two rows of eight
  // columns, and interleaved with zeros, or shifted and masked, it is two of fp32. VPMOVZXWD and a
  // shift are twice the instructions.
  static constexpr int kRegisters = 8;  // of a block; register 2 j + h has rows 8 h + j and 4 on
  static __m256i load_register(const std::byte* block, int r) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block) + r);
  }

  // Lanes sum along k: over a chunk of columns that stays in L1, two rows of A by four registers of
  // weights at a time: eight sums, which two FMA a cycle at a latency of 4 want. One row of A takes
  // all eight registers, in memory's order. From L2 two threads on Zen 3 read 88 GB/s for one row
  // and 31 for four; a register of weights at a time for all rows of A gave 36 and 21. The next
  // chunk's lines are prefetched evenly meanwhile, and in memory's order: where each turn fetched
  // the lines that it will want itself, weights from memory took up to 1.4 times as long.
  template <int rows>
  static void direct_k(const std::byte* blocks, int length, const float* a, int lda, float* c,
                       int ldc) {
    constexpr int kChunk = 128;  // columns: 4 KiB of weights
    constexpr int kTogether = min(rows, 2);
    constexpr int kOfWeights = kRegisters / kTogether;
    constexpr int kShare = div_up(kBlockBytes, kTogether * div_up(rows, kTogether));
    F sums[rows][kRegisters] = {};
    for (int k0 = 0; k0 < length; k0 += kChunk) {
      const int count = min(kChunk, length - k0) / 8;
      const std::byte* const next = blocks + count * kBlockBytes;
      const std::byte* ahead = next;
      for (int r = 0; r < kRegisters; r += kOfWeights) {
        KT_UNROLL for (int i = 0; i < rows; i += kTogether, ahead += count * kShare) {
          const float* const x = a + k0 + i * lda;
          if (i + kTogether <= rows) {
            add_along_k<kTogether, kOfWeights, kShare>(blocks, r, count, x, lda, ahead, sums + i);
          } else {
            add_along_k<1, kOfWeights, kShare>(blocks, r, count, x, lda, ahead, sums + i);
          }
        }
      }
      blocks = next;
    }
    for (int i = 0; i < rows; ++i) {
      for (int half = 0; half < 2; ++half) {
        const F* const of = sums[i] + half;
        const F sum = _mm256_hadd_ps(_mm256_hadd_ps(of[0], of[2]), _mm256_hadd_ps(of[4], of[6]));
        float* const to = c + i * ldc + 8 * half;
        store(to, _mm256_add_ps(load(to), sum));
      }
    }
  }
  // Registers [first, first + registers) of `count` blocks.
  template <int rows, int registers, int share>
  static void add_along_k(const std::byte* blocks, int first, int count, const float* x, int lda,
                          const std::byte* ahead, F (*sums)[kRegisters]) {
    F acc[rows][registers];
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      KT_UNROLL for (int r = 0; r < registers; ++r) acc[i][r] = sums[i][first + r];
    }
    const __m256i zero = _mm256_setzero_si256();
    for (int b = 0; b < count; ++b, blocks += kBlockBytes, x += 8, ahead += share) {
      KT_UNROLL for (int line = 0; line < share; line += 64) {
        __builtin_prefetch(ahead + line, 0, 3);
      }
      KT_UNROLL for (int half = 0; half < 2; ++half) {  // four columns
        F v[rows];
        KT_UNROLL for (int i = 0; i < rows; ++i) {
          v[i] = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(x + i * lda + 4 * half));
        }
        KT_UNROLL for (int r = 0; r < registers; ++r) {
          const __m256i two = load_register(blocks, first + r);
          const F w = _mm256_castsi256_ps(half == 0 ? _mm256_unpacklo_epi16(zero, two)
                                                    : _mm256_unpackhi_epi16(zero, two));
          KT_UNROLL for (int i = 0; i < rows; ++i) acc[i][r] = _mm256_fmadd_ps(v[i], w, acc[i][r]);
        }
      }
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      KT_UNROLL for (int r = 0; r < registers; ++r) sums[i][first + r] = acc[i][r];
    }
  }

  // Lanes are columns, of a block's eight the even and the odd ones, in two rows of weights.
  template <int rows>
  static void direct_n(const std::byte* blocks, std::int64_t stride, int /*vectors*/, int depth,
                       const float* a, int lda, float* c, int ldc) {
    for (int half = 0; half < 2; ++half, blocks += kBlockBytes, c += 8) {
      F acc[rows][2] = {};
      const std::byte* block = blocks;
      const float* x = a;
      for (int g = 0; g < depth; g += kLanes, block += stride, x += kLanes) {
        KT_UNROLL for (int line = 0; line < kBlockBytes; line += 64) {
          __builtin_prefetch(block + kPrefetchAlongN + line, 0, 2);
        }
        KT_UNROLL for (int h = 0; h < 2; ++h) {
          add_along_n<rows, 0>(load_register(block, h), x + 8 * h, lda, acc);
          add_along_n<rows, 1>(load_register(block, 2 + h), x + 8 * h, lda, acc);
          add_along_n<rows, 2>(load_register(block, 4 + h), x + 8 * h, lda, acc);
          add_along_n<rows, 3>(load_register(block, 6 + h), x + 8 * h, lda, acc);
        }
      }
      KT_UNROLL for (int i = 0; i < rows; ++i) {
        __m128 sums[2];
        KT_UNROLL for (int p = 0; p < 2; ++p) {
          sums[p] =
              _mm_add_ps(_mm256_castps256_ps128(acc[i][p]), _mm256_extractf128_ps(acc[i][p], 1));
        }
        float* const to = c + i * ldc;
        _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), _mm_unpacklo_ps(sums[0], sums[1])));
        _mm_storeu_ps(to + 4, _mm_add_ps(_mm_loadu_ps(to + 4), _mm_unpackhi_ps(sums[0], sums[1])));
      }
    }
  }
  // Rows j and 4 + j of eight, which have A's columns x[0, 8).
  template <int rows, int j>
  static void add_along_n(__m256i two, const float* x, int lda, F (&acc)[rows][2]) {
    const F w[2] = {even(two), odd(two)};
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      const F v = _mm256_permute_ps(load(x + i * lda), j * 0x55);  // x[j], x[4 + j], four of each
      KT_UNROLL for (int p = 0; p < 2; ++p) acc[i][p] = _mm256_fmadd_ps(v, w[p], acc[i][p]);
    }
  }
};

}  // namespace
}  // namespace kt
