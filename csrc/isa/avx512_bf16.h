// AVX-512 with VDPBF16PS: each 32-bit lane sums a pair of products (Intel SDM vol. 2, "VDPBF16PS":
// denormals are flushed, sums rounded to nearest even).
//
// Two threads of a Zen 4 multiply at 454 GFLOP/s this way and at 233 by FMA in fp32. On Intel's
// cores it is no gain: on a Sapphire Rapids this instruction starts every other cycle,
// 29 operations per cycle and core of FMA's 56 in fp32, so there this set comes behind avx512_vbmi
// (cpu_features.h), and few rows alone, for which memory is the limit, use it as part of amx.
//
// Along n the pairs are rows (0, 4), (8, 12), (1, 5), ... of a group, which is how one word
// permute takes them from a block's vector; A's columns are put in the same order.
#pragma once

namespace kt {
namespace {

struct Avx512Bf16 : Avx512Vector {
  static constexpr const char* kName = "avx512_bf16";
  static constexpr int kRows = 6;
  static constexpr int kVectors = 4;
  // Up to one tile's rows the weights go straight from the block into the product (below): the
  // figures are those that AVX2 and a trial kernel on Zen 4 led to. On a Sapphire Rapids four rows
  // of DeepSeek-V3's widths reach two thirds of the memory's bandwidth so.
  static constexpr int kDirectRows = 6;
  static constexpr int kDirectTiles = 1;
  static constexpr int kDirectLength = 128;  // along k, the least
  static constexpr int kDirectDepth = 128;   // along n: 8 groups of rows
  static constexpr int kDirectVectors = 2;   // along n: 12 sums for 6 rows, 8 for 4
  static constexpr int kDepth = 128;  // 4 panels of 128 x 16 pairs' halves: 16 KiB, half of L1
  static constexpr int kStep = 2;
  using Integer = struct Avx512Vbmi;
  using A = act_t;
  using Panel = act_t;
  using B = __m512i;

  static B load_panel(const act_t* p) { return _mm512_loadu_si512(p); }
  static B broadcast(const act_t* a) {
    std::int32_t pair = 0;
    __builtin_memcpy(&pair, a, 4);
    return _mm512_set1_epi32(pair);
  }
  static F dot(F acc, B x, B b) {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(b));
  }

  static constexpr int panel_size(int depth) { return depth * kLanes; }

  static void unpack_k(const std::byte* blocks, int depth, act_t* out) {
    for (int k = 0; k < depth; k += 8, blocks += 256) {
      __m512i p[4];
      transpose(blocks, p);
      KT_UNROLL for (int j = 0; j < 4; ++j, out += 2 * kLanes) _mm512_storeu_si512(out, p[j]);
    }
  }

  // Word i of the result: row `low` lane for even i, `low + 1` for odd, column i / 2; columns 0-7
  // are the first source's, 8-15 the second's.
  static __m512i pair_index(int low) {
    alignas(64) std::uint16_t index[32];
    for (int i = 0; i < 32; ++i) {
      const int column = i / 2;
      index[i] = static_cast<std::uint16_t>((column / 8) * 32 + (low + i % 2) * 8 + column % 8);
    }
    return _mm512_load_si512(index);
  }

  static void unpack_n(const std::byte* blocks, std::int64_t stride, int depth, act_t* out) {
    const __m512i first = pair_index(0);
    const __m512i second = pair_index(2);
    for (int g = 0; g < depth; g += kLanes, blocks += stride) {
      KT_UNROLL for (int j = 0; j < 4; ++j, out += 4 * kLanes) {
        const __m512i v = _mm512_loadu_si512(blocks + 64 * j);
        const __m512i w = _mm512_loadu_si512(blocks + 256 + 64 * j);
        _mm512_storeu_si512(out, _mm512_permutex2var_epi16(v, first, w));
        _mm512_storeu_si512(out + 2 * kLanes, _mm512_permutex2var_epi16(v, second, w));
      }
    }
  }

  // Lanes of 128 bits sum along k, each for one row: 16 bytes of A serve the four rows of a vector,
  // and the weights need no shuffle. Four sums reduce to 16 outputs in order by unpacking.
  template <int rows>
  static void direct_k(const std::byte* blocks, int length, const act_t* a, int lda, float* c,
                       int ldc) {
    F acc[rows][4];
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      KT_UNROLL for (int j = 0; j < 4; ++j) acc[i][j] = _mm512_setzero_ps();
    }
    for (int k = 0; k < length; k += 8, blocks += 256) {
      prefetch(blocks + kPrefetchAlongK, 256);
      B w[4];
      KT_UNROLL for (int j = 0; j < 4; ++j) w[j] = _mm512_loadu_si512(blocks + 64 * j);
      KT_UNROLL for (int i = 0; i < rows; ++i) {
        const B x = _mm512_broadcast_i32x4(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i * lda + k)));
        KT_UNROLL for (int j = 0; j < 4; ++j) acc[i][j] = dot(acc[i][j], x, w[j]);
      }
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      const F s01 = _mm512_add_ps(_mm512_unpacklo_ps(acc[i][0], acc[i][1]),
                                  _mm512_unpackhi_ps(acc[i][0], acc[i][1]));
      const F s23 = _mm512_add_ps(_mm512_unpacklo_ps(acc[i][2], acc[i][3]),
                                  _mm512_unpackhi_ps(acc[i][2], acc[i][3]));
      const auto lo = _mm512_unpacklo_pd(_mm512_castps_pd(s01), _mm512_castps_pd(s23));
      const auto hi = _mm512_unpackhi_pd(_mm512_castps_pd(s01), _mm512_castps_pd(s23));
      const F sum = _mm512_add_ps(_mm512_castpd_ps(lo), _mm512_castpd_ps(hi));
      store(c + i * ldc, _mm512_add_ps(load(c + i * ldc), sum));
    }
  }

  template <int rows, int vectors>
  static void direct_columns(const std::byte* blocks, std::int64_t stride, int depth,
                             const act_t* a, int lda, float* c, int ldc) {
    const __m512i pairs[2] = {pair_index(0), pair_index(2)};
    F acc[rows][vectors];
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      KT_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] = load(c + i * ldc + v * kLanes);
    }
    for (int g = 0; g < depth; g += kLanes, blocks += stride, a += kLanes) {
      prefetch(blocks + vectors * 512, vectors * 512);
      KT_UNROLL for (int step = 0; step < 8; ++step) {  // two pairs of rows per vector of a block
        const std::byte* const p = blocks + step / 2 * 64;
        B w[vectors];
        KT_UNROLL for (int v = 0; v < vectors; ++v) {
          w[v] = _mm512_permutex2var_epi16(_mm512_loadu_si512(p + v * 512), pairs[step % 2],
                                           _mm512_loadu_si512(p + v * 512 + 256));
        }
        KT_UNROLL for (int i = 0; i < rows; ++i) {
          const B x = broadcast(a + i * lda + 2 * step);
          KT_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] = dot(acc[i][v], x, w[v]);
        }
      }
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      KT_UNROLL for (int v = 0; v < vectors; ++v) store(c + i * ldc + v * kLanes, acc[i][v]);
    }
  }

  template <int rows>
  static void direct_n(const std::byte* blocks, std::int64_t stride, int vectors, int depth,
                       const act_t* a, int lda, float* c, int ldc) {
    if (vectors == 2) return direct_columns<rows, 2>(blocks, stride, depth, a, lda, c, ldc);
    direct_columns<rows, 1>(blocks, stride, depth, a, lda, c, ldc);
  }

  // Where row s of a group stands in the order of pairs: row 4 l + j is the l-th of the j-th four.
  static constexpr int paired(int s) { return s / kLanes * kLanes + s % 4 * 4 + s % kLanes / 4; }

  // An fp32 operand (a low-rank factor) is the sum of two bf16 ones: rounded, and what rounding
  // left. Two small products instead of one that errs by 2^-9.
  static int a_pieces(DType dtype) { return dtype == DType::float32 ? 2 : 1; }
  static void store_piece(act_t* p, F v, int piece) {
    store(p, v);
    if (piece == 1) store(p, _mm512_sub_ps(v, load(p)));
  }

  // 32 columns of a row, those from `left` on zero.
  static __m512i pair_columns(const std::byte* row, bool wide, int piece, int left) {
    if (!wide) {
      if (left >= 2 * kLanes) return _mm512_loadu_si512(row);
      return _mm512_maskz_loadu_epi16((1U << max(left, 0)) - 1, row);
    }
    alignas(64) act_t block[2 * kLanes];
    KT_UNROLL for (int v = 0; v < 2; ++v) {
      const int have = max(0, min(kLanes, left - v * kLanes));
      store_piece(block + v * kLanes,
                  _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << have) - 1),
                                        row + std::int64_t{4} * v * kLanes),
                  piece);
    }
    return _mm512_load_si512(block);
  }

  // The order of A's columns, if it is not their own.
  struct PairOrder {
    static constexpr int place(int s) { return paired(s); }
  };

  // Rows lda apart, 32 columns after 32 columns `next` apart. A row's last 32 are written whole.
  template <class Order>
  static void pack_columns(const Rows& a, int piece, int m, int s0, int valid, int length,
                           act_t* out, int lda, int next) {
    alignas(64) std::uint16_t order[2 * kLanes] = {};
    if constexpr (!std::is_void_v<Order>) {
      for (int s = 0; s < 2 * kLanes; ++s) order[Order::place(s)] = static_cast<std::uint16_t>(s);
    }
    const __m512i index = _mm512_load_si512(order);
    const bool wide = a.dtype == DType::float32;
    const int size = wide ? 4 : 2;
    for (int i = 0; i < m; ++i, out += lda) {
      const std::byte* row = a.row(i) + std::int64_t{size} * s0;
      const std::byte* const later = a.row(min(m - 1, i + 2)) + std::int64_t{size} * s0;
      act_t* to = out;
      for (int j = 0; j < length; j += 2 * kLanes, to += next) {
        __builtin_prefetch(later + std::int64_t{size} * j);
        __m512i v = pair_columns(row + std::int64_t{size} * j, wide, piece, valid - j);
        if constexpr (!std::is_void_v<Order>) v = _mm512_permutexvar_epi16(index, v);
        _mm512_storeu_si512(to, v);
      }
    }
  }
  template <Axis axis>
  static void pack_a(const Rows& a, int piece, int m, int s0, int valid, int length, act_t* out,
                     int lda, int next = 2 * kLanes) {
    using Order = std::conditional_t<axis == Axis::n, PairOrder, void>;
    pack_columns<Order>(a, piece, m, s0, valid, length, out, lda, next);
  }

  template <int rows, int vectors>
  static void tile(const act_t* a, int lda, const act_t* panel, int depth, float* c, int ldc) {
    avx512_tile<Avx512Bf16, rows, vectors>(a, lda, panel, depth, c, ldc);
  }
};

}  // namespace
}  // namespace kt
