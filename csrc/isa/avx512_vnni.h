// Integer products on AVX-512 with VNNI: four products of 8 bits per dword by VPDPBUSD.
//
// VPDPBUSD has the FMA's ports, two a cycle at a latency of 5: the tile's 12 sums are enough, and 7
// loads per 12 products leave the load ports slack.
#pragma once

namespace kt {
namespace {

// Quads: how codes are interleaved and looked up.
template <class Quads>
struct VnniWith : Avx512Bytes {
  static constexpr int kStep = 4;
  static constexpr int kDirectRows = 6;
  static constexpr int kStarts = 4;  // direct_k's sums are of every fourth quad of columns
  using A = std::int8_t;
  using Panel = std::uint8_t;

  static Ints load_panel(const Panel* p) { return load_once(p); }
  static Ints broadcast(const A* a) {
    std::int32_t quad = 0;
    __builtin_memcpy(&quad, a, 4);
    return _mm512_set1_epi32(quad);
  }
  static Ints dot(Ints acc, Ints weights, Ints x) {
#if defined(KT_MODEL)
    return _mm512_dpbusd_epi32(acc, weights, x);
#else
    // Through the intrinsic g++ 12 copies and spills the sums (half the speed).
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(weights), "v"(x));
    return acc;
#endif
  }
  static constexpr int panel_size(int depth) { return depth * kLanes; }

  template <class F>
  static void unpack_k(const std::byte* group, int column, int depth, Panel* out) {
    for (int k = 0; k < depth; k += kLanes) {
      Bytes v[4];
      KT_UNROLL for (int j = 0; j < 4; ++j) {
        v[j] = F::Block::template load<VnniWith>(group, column + k, j);
      }
      Bytes p[4];
      Avx512Vector::transpose(v, p);
      KT_UNROLL for (int j = 0; j < 4; ++j, out += 4 * kLanes) _mm512_storeu_si512(out, p[j]);
    }
  }

  // 16 rows x 16 columns; a step's four sums are rows j, 4 + j, 8 + j and 12 + j.
  template <class F, class Decoder>
  static void unpack_n(const std::byte* group, int column, const Decoder& decode, Panel* out) {
    KT_UNROLL for (int j = 0; j < 4; ++j, out += 4 * kLanes) {
      Bytes quads[1];
      load_quads<F>(group, column, j, decode, quads);
      _mm512_storeu_si512(out, quads[0]);
    }
  }

  // 16 values to codes in the order of the panel's sums; the codes, to be added up.
  template <Axis axis>
  static Ints round(const float* values, A* out) {
    const __m512i codes = _mm512_cvtps_epi32(_mm512_loadu_ps(values));
    __m128i v = _mm512_cvtsepi32_epi8(codes);
    if constexpr (axis == Axis::n) {
      v = _mm_shuffle_epi8(v, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), v);
    return codes;
  }

  // Lane l of 16 columns' codes is the l-th quad.
  static void starts(Ints sum, std::int32_t factor, std::int32_t* out) {
    const __m128i low =
        _mm_hadd_epi32(_mm512_castsi512_si128(sum), _mm512_extracti32x4_epi32(sum, 1));
    const __m128i high =
        _mm_hadd_epi32(_mm512_extracti32x4_epi32(sum, 2), _mm512_extracti32x4_epi32(sum, 3));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm_mullo_epi32(_mm_hadd_epi32(low, high), _mm_set1_epi32(factor)));
  }

  // Lanes of 128 bits sum along k, each for one row of weights: 16 bytes of A serve the four rows
  // of a vector, and the codes need no shuffle. Dword d of lane l of the j-th of four sums belongs
  // to row 4 l + j; only the totals are reduced to 16 outputs in order (that takes 9 instructions,
  // scaling a sum as it is 2). Totals lie in L1, the registers being taken by the sums.
  template <class F, int rows, class BlockOfA>
  static void direct_k(const Packed& w, int o, int s, int depth, const BlockOfA& a, int column,
                       float* c, int ldc) {
    const std::byte* const group = w.data + o / kLanes * F::Block::group_bytes(w.k);
    alignas(64) float totals[rows][4][kLanes] = {};
    alignas(64) float scales[kLanes];
    if constexpr (F::kIntegers.grouped) {
      alignas(64) float sums[rows][4][kLanes];  // of one group
      const Ints lanes = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
      const int run = F::template panel_depth<Axis::k>(w, kPanelDepth);
      for (int k = 0; k < depth; k += a.granule) {
        const bool first = k % run == 0;
        const bool last = (k + a.granule) % run == 0;
        if (last) F::template output_scales<Vector>(w, o, s + k, scales);
        add_granule<F, rows>(
            group, s + k, a.granule, a, column + k, [&](int i, int j, __m512 sum, __m512 scale) {
              sum = first ? _mm512_mul_ps(sum, scale)
                          : _mm512_fmadd_ps(sum, scale, _mm512_load_ps(sums[i][j]));
              if (!last) return _mm512_store_ps(sums[i][j], sum);
              const __m512 of_row =
                  _mm512_permutexvar_ps(_mm512_add_epi32(lanes, set1(j)), _mm512_load_ps(scales));
              const __m512 total = _mm512_fmadd_ps(sum, of_row, _mm512_load_ps(totals[i][j]));
              _mm512_store_ps(totals[i][j], total);
            });
      }
    } else {
      F::template output_scales<Vector>(w, o, s, scales);
      for (int k = 0; k < depth; k += a.granule) {
        add_granule<F, rows>(group, s + k, min(a.granule, depth - k), a, column + k,
                             [&](int i, int j, __m512 sum, __m512 scale) {
                               const __m512 before = _mm512_load_ps(totals[i][j]);
                               _mm512_store_ps(totals[i][j], _mm512_fmadd_ps(sum, scale, before));
                             });
      }
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      __m512 total = reduce(totals[i]);
      if constexpr (!F::kIntegers.grouped) total = _mm512_mul_ps(total, _mm512_load_ps(scales));
      _mm512_storeu_ps(c + i * ldc, _mm512_add_ps(_mm512_loadu_ps(c + i * ldc), total));
    }
  }

  // One granule of A, columns of its block from `column` on, times the weights' from s on:
  // add(row, j, sum, scale).
  template <class F, int rows, class BlockOfA, class Add>
  static void add_granule(const std::byte* group, int s, int depth, const BlockOfA& a, int column,
                          Add add) {
    const float* const scale = a.scale + column / a.granule * rows;
    const std::int32_t* const start = a.shares + column / a.granule * rows * kStarts;
    Ints acc[rows][4];
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      const Ints first = _mm512_broadcast_i32x4(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(start + i * kStarts)));
      KT_UNROLL for (int j = 0; j < 4; ++j) acc[i][j] = first;
    }
    const A* const codes_of_a = a.codes + column;
    for (int k = 0; k < depth; k += F::Block::kColumns) {
      const std::byte* const block = F::Block::block(group, s + k);
      Vector::prefetch(block + Vector::kPrefetchAlongK, kBlockBytes);
      Bytes codes[4];
      KT_UNROLL for (int j = 0; j < 4; ++j) codes[j] = load_bytes(block + 64 * j);
      KT_UNROLL for (int h = 0; h < F::Block::kColumns / kLanes; ++h) {
        if (k + h * kLanes >= depth) break;
        Bytes v[4];
        KT_UNROLL for (int j = 0; j < 4; ++j) {
          v[j] = F::Block::template sixteen<VnniWith>(codes[j], h);
        }
        KT_UNROLL for (int i = 0; i < rows; ++i) {
          const Ints x = _mm512_broadcast_i32x4(_mm_loadu_si128(
              reinterpret_cast<const __m128i*>(codes_of_a + i * a.lda + k + h * kLanes)));
          KT_UNROLL for (int j = 0; j < 4; ++j) acc[i][j] = dot(acc[i][j], v[j], x);
        }
      }
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      const __m512 factor = _mm512_set1_ps(scale[i]);
      KT_UNROLL for (int j = 0; j < 4; ++j) { add(i, j, to_floats(acc[i][j]), factor); }
    }
  }

  static __m512 reduce(const float (&totals)[4][kLanes]) {
    const __m512d pairs[2] = {add_halves(totals[0], totals[1]), add_halves(totals[2], totals[3])};
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(pairs[0], pairs[1])),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[0], pairs[1])));
  }
  static __m512d add_halves(const float* x, const float* y) {
    const __m512 a = _mm512_load_ps(x);
    const __m512 b = _mm512_load_ps(y);
    return _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
  }

  // Lanes are columns: a vector's four rows are interleaved in registers and serve all rows of A.
  // `ahead`: what to fetch meanwhile, as many columns of as many rows.
  template <class F, int rows, class BlockOfA>
  static void direct_n(const Packed& w, int o, int vectors, int s, int depth, const BlockOfA& a,
                       int column, const std::byte* ahead, float* c, int ldc) {
    using Decoder = typename F::template Decoder<VnniWith>;
    Decoder decode[kPanelDepth / kLanes];
    for (int v = 0, made = -1; v < vectors;) {
      const int output = o + v * kLanes;
      if (made < 0 || !F::same_decoder(w, made, output)) {
        for (int r = 0; r < depth; r += kLanes) decode[r / kLanes] = {w, s + r, output};
        made = output;
      }
      // As many columns as one decoder serves, in whole blocks: more share the loads of A.
      const auto fit = [&](int count) {
        return v + count <= vectors && output % F::Block::kColumns == 0 &&
               F::same_decoder(w, output, output + (count - 1) * kLanes);
      };
      const int count = fit(4) ? 4 : fit(2) ? 2 : 1;
      auto* const direct = count == 4   ? direct_columns<F, rows, 4, BlockOfA>
                           : count == 2 ? direct_columns<F, rows, 2, BlockOfA>
                                        : direct_columns<F, rows, 1, BlockOfA>;
      for (int r = 0; r < depth; r += a.granule) {
        const std::int64_t at = r / kLanes * F::Block::group_bytes(w.k) + v * F::Block::kSpan;
        direct(w, output, s + r, min(a.granule, depth - r), a, column + r, decode + r / kLanes,
               ahead + at, c + v * kLanes, ldc);
      }
      v += count;
    }
  }

  // The j-th four rows of `vectors` times 16 columns. Codes that need no table before are
  // interleaved as they are stored: one shuffle then serves both halves of a byte.
  template <class F, int vectors, class Decoder>
  static void load_quads(const std::byte* group, int column, int j, const Decoder& decode,
                         Ints (&quads)[vectors]) {
    constexpr int kHalves = F::Block::kColumns / kLanes;
    constexpr bool kInterleavesFirst = Decoder::kPlain || Quads::kLooksUpQuads;
    if constexpr (kInterleavesFirst && vectors % kHalves == 0) {
      KT_UNROLL for (int v = 0; v < vectors; v += kHalves) {
        const std::byte* const block = F::Block::block(group, column + v * kLanes);
        const Bytes codes = Quads::interleave(load_bytes(block + 64 * j));
        KT_UNROLL for (int h = 0; h < kHalves; ++h) {
          quads[v + h] = decode.quads(F::Block::template sixteen<VnniWith>(codes, h), j);
        }
      }
    } else {
      KT_UNROLL for (int v = 0; v < vectors; ++v) {
        const Bytes codes = F::Block::template load<VnniWith>(group, column + v * kLanes, j);
        if constexpr (kInterleavesFirst) {
          quads[v] = decode.quads(Quads::interleave(codes), j);
        } else {
          quads[v] = Quads::interleave(decode(codes, j));
        }
      }
    }
  }

  // One granule of A.
  template <class F, int rows, int vectors, class BlockOfA>
  static void direct_columns(const Packed& w, int o, int s, int depth, const BlockOfA& a,
                             int column, const typename F::template Decoder<VnniWith>* decode,
                             const std::byte* ahead, float* c, int ldc) {
    const std::int64_t bytes = F::Block::group_bytes(w.k);
    const float* const scale = a.scale + column / a.granule * rows;
    const std::int32_t* const start = a.start + column / a.granule * rows;
    // For the compiler: which half of a byte is whose.
    if (vectors > 1 && o % F::Block::kColumns != 0) __builtin_unreachable();
    Ints acc[rows][vectors];
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      KT_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] = set1(start[i]);
    }
    for (int r = 0; r < depth; r += kLanes, ++decode, ahead += bytes) {
      const std::byte* const group = w.data + (s + r) / kLanes * bytes;
      Vector::prefetch(ahead, vectors * F::Block::kSpan);
      KT_UNROLL for (int j = 0; j < 4; ++j) {
        Ints quads[vectors];
        load_quads<F>(group, o, j, *decode, quads);
        KT_UNROLL for (int i = 0; i < rows; ++i) {
          const Ints x = broadcast(a.codes + i * a.lda + column + r + 4 * j);
          KT_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] = dot(acc[i][v], quads[v], x);
        }
      }
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      KT_UNROLL for (int v = 0; v < vectors; ++v) {
        float* const to = c + i * ldc + v * kLanes;
        _mm512_storeu_ps(to, _mm512_fmadd_ps(to_floats(acc[i][v]), _mm512_set1_ps(scale[i]),
                                             _mm512_loadu_ps(to)));
      }
    }
  }

  static Bytes lookup_quads(Bytes table, Bytes codes) { return Quads::lookup(table, codes); }
};

struct Avx512Vnni : VnniWith<Avx512Bytes> {};

}  // namespace
}  // namespace kt
