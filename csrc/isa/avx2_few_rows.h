// Integer products on AVX2 of few rows of A, straight from the blocks: a panel that serves one tile
// only would be written and read for nothing. T is the vocabulary, of words (avx2_words.h) or of
// bytes (avx2_bytes.h).
//
// Four rows: along k their sums of two registers of weights are 8 of the 16 registers, along n
// their sums for 16 columns.
#pragma once

namespace kt {
namespace {

template <class T>
struct Avx2FewRows {
  static constexpr int kRegisters = 8;  // of a block, two rows each
  static constexpr int kChunk = 512;    // columns: 8 KiB of weights
  // Of A: that of H, or of a group of 32 weights, and that of others.
  static constexpr int kLeastGranule = 32;
  static constexpr int kGranule = Rows{}.granule;
  // Registers that A's codes serve at a time: two are a line of memory. In groups, whose scales
  // want registers as well, S2's forward took a tenth longer with two.
  template <class F>
  static constexpr int kTogether = F::kIntegers.grouped ? 1 : 2;

  // Lanes sum along k: four rows of weights at a time over a chunk of columns that stays in L1,
  // 4 passes for the group's 16 rows. The next chunk's lines are prefetched evenly meanwhile.
  template <class F, int rows, class BlockOfA>
  static void direct_k(const Packed& w, int o, int s, int depth, const BlockOfA& a, int column,
                       float* c, int ldc) {
    if (a.granule == kLeastGranule) {
      add_outputs<F, rows, kLeastGranule>(w, o, s, depth, a, column, c, ldc);
    } else {
      add_outputs<F, rows, kGranule>(w, o, s, depth, a, column, c, ldc);
    }
  }
  template <class F, int rows, int granule, class BlockOfA>
  static void add_outputs(const Packed& w, int o, int s, int depth, const BlockOfA& a, int column,
                          float* c, int ldc) {
    const std::byte* const group = w.data + o / kLanes * F::Block::group_bytes(w.k);
    __m256 totals[kRegisters][rows];
    KT_UNROLL for (auto& part : totals) {
      KT_UNROLL for (auto& total : part) total = _mm256_setzero_ps();
    }
    alignas(32) float scales[kChunk / granule][kLanes];  // of a chunk's granules, or of all
    if constexpr (!F::kIntegers.grouped) F::template output_scales<Avx2>(w, o, s, scales[0]);
    for (int k0 = 0; k0 < depth; k0 += kChunk) {
      const int length = min(kChunk, depth - k0);
      if constexpr (F::kIntegers.grouped) {
        for (int q = 0; q * granule < length; ++q) {
          F::template output_scales<Avx2>(w, o, s + k0 + q * granule, scales[q]);
        }
      }
      for (int part = 0; part < kRegisters; part += kTogether<F>) {
        add_chunk<F, rows, granule>(group, part, s + k0, length, a, column + k0, scales,
                                    totals + part);
      }
    }
    for (int i = 0; i < rows; ++i) {
      for (int h = 0; h < 2; ++h) {
        const __m256 low = _mm256_hadd_ps(totals[h][i], totals[2 + h][i]);
        __m256 sum = _mm256_hadd_ps(low, _mm256_hadd_ps(totals[4 + h][i], totals[6 + h][i]));
        if constexpr (!F::kIntegers.grouped) {
          sum = _mm256_mul_ps(sum, _mm256_load_ps(scales[0] + 8 * h));
        }
        float* const to = c + static_cast<std::int64_t>(i) * ldc + 8 * h;
        Avx2::store(to, _mm256_add_ps(Avx2::load(to), sum));
      }
    }
  }

  // Of kTogether<F> registers from `part` on of the group's blocks, columns from s on, column
  // `column` of A's block being the first: every granule's sums, scaled. The granule is a constant,
  // so that its one to four blocks are no loop, which took as long as their products.
  template <class F, int rows, int granule, class BlockOfA>
  static void add_chunk(const std::byte* group, int part, int s, int length, const BlockOfA& a,
                        int column, const float (*scales)[kLanes], __m256 (*totals)[rows]) {
    using A = typename T::A;
    __m256 total[kTogether<F>][rows];
    KT_UNROLL for (int p = 0; p < kTogether<F>; ++p) {
      KT_UNROLL for (int i = 0; i < rows; ++i) total[p][i] = totals[p][i];
    }
    constexpr int kShare = granule / kLanes * F::Block::kSpan / kRegisters * kTogether<F>;
    const int first = part % 2 * 8 + part / 2;  // lanes: this row, and the fourth behind it
    const std::byte* block = F::Block::block(group, s) + part * sizeof(__m256i);
    const std::byte* ahead =
        F::Block::span(group, s + kChunk) + part * kChunk / kLanes * F::Block::kSpan / kRegisters;
    const A* codes = a.codes + column;
    const float* of_a = a.scale + column / granule * rows;
    const std::int32_t* start = a.shares + column / granule * rows * T::kStarts;
    for (int k = 0; k < length; k += granule) {
      for (int b = 0; b < kShare; b += 64) __builtin_prefetch(ahead + b, 0, 2);
      ahead += kShare;
      __m256i sums[kTogether<F>][rows];
      KT_UNROLL for (int i = 0; i < rows; ++i, start += T::kStarts) {
        KT_UNROLL for (int p = 0; p < kTogether<F>; ++p) sums[p][i] = both_lanes(start);
      }
      if (k + granule <= length) {
        KT_UNROLL for (int j = 0; j < granule; j += kLanes) {
          add_columns_of<F, rows>(block, j, codes, a.lda, sums);
        }
      } else {
        for (int j = 0; k + j < length; j += kLanes) {
          add_columns_of<F, rows>(block, j, codes, a.lda, sums);
        }
      }
      block += granule / F::Block::kColumns * kBlockBytes;
      codes += granule;
      __m256 scale = _mm256_setzero_ps();
      if constexpr (F::kIntegers.grouped) {
        const float* const of_row = scales[k / granule] + first;
        scale = _mm256_blend_ps(_mm256_set1_ps(of_row[0]), _mm256_set1_ps(of_row[4]), 0xf0);
      }
      KT_UNROLL for (int i = 0; i < rows; ++i, ++of_a) {
        KT_UNROLL for (int p = 0; p < kTogether<F>; ++p) {
          __m256 factor = _mm256_set1_ps(*of_a);
          if constexpr (F::kIntegers.grouped) factor = _mm256_mul_ps(factor, scale);
          const __m256 sum = T::to_floats(T::whole(sums[p][i]));
          total[p][i] = _mm256_fmadd_ps(sum, factor, total[p][i]);
        }
      }
    }
    KT_UNROLL for (int p = 0; p < kTogether<F>; ++p) {
      KT_UNROLL for (int i = 0; i < rows; ++i) totals[p][i] = total[p][i];
    }
  }
  // Sixteen columns, from the j-th of a granule on.
  template <class F, int rows, class A>
  static void add_columns_of(const std::byte* block, int j, const A* codes, int lda,
                             __m256i (&sums)[kTogether<F>][rows]) {
    constexpr int kPieces = static_cast<int>(sizeof(A));  // of 16 codes, 16 bytes each
    block += j / F::Block::kColumns * kBlockBytes;
    __m256i v[kTogether<F>];
    KT_UNROLL for (int p = 0; p < kTogether<F>; ++p) {
      const __m256i stored = T::load_bytes(block + p * sizeof(__m256i));
      v[p] = F::Block::template sixteen<T>(stored, j % F::Block::kColumns / kLanes);
    }
    KT_UNROLL for (int piece = 0; piece < kPieces; ++piece) {
      __m256i weights[kTogether<F>];
      KT_UNROLL for (int p = 0; p < kTogether<F>; ++p) weights[p] = T::along_k(v[p], piece);
      KT_UNROLL for (int i = 0; i < rows; ++i) {
        const __m256i x = both_lanes(codes + i * lda + j + piece * kLanes / kPieces);
        KT_UNROLL for (int p = 0; p < kTogether<F>; ++p) {
          sums[p][i] = T::dot(sums[p][i], weights[p], x);
        }
      }
    }
  }
  static __m256i both_lanes(const void* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }

  // Lanes are columns: four rows are interleaved in registers and serve all rows of A. `ahead`:
  // what to fetch meanwhile, as many columns of as many rows. One granule before the next: its four
  // groups of rows are as many streams, and with a panel's sixteen at once INT8 took a tenth longer
  // on Zen 3. A function of its own, since the registers do not hold its callers' variables as
  // well: four rows of INT8 took a sixth longer.
  template <class F, int rows, class BlockOfA>
  [[gnu::noinline]] static void direct_n(const Packed& w, int o, int vectors, int s, int depth,
                                         const BlockOfA& a, int column, const std::byte* ahead,
                                         float* c, int ldc) {
    constexpr int kParts = F::Block::kColumns / kLanes;
    typename F::template Decoder<T> decode[kGranule / kLanes];
    for (int r = 0; r < depth; r += a.granule) {
      const int rows_of_w = min(a.granule, depth - r);
      const std::byte* fetched = ahead + r / kLanes * F::Block::group_bytes(w.k);
      for (int v = 0, made = -1; v < vectors;) {
        const int output = o + v * kLanes;
        const int first = output % F::Block::kColumns / kLanes;
        const int count = min(kParts - first, vectors - v);
        if (made < 0 || !F::same_decoder(w, made, output)) {
          for (int g = 0; g < rows_of_w; g += kLanes) decode[g / kLanes] = {w, s + r + g, output};
          made = output;
        }
        add_columns<F, rows>(w, output, first, first + count, s + r, rows_of_w, a, column + r,
                             decode, fetched, c + v * kLanes, ldc);
        v += count;
        fetched += count * F::Block::kSpan;
      }
    }
  }

  // One granule of A, sixteens [first, last) of a block's columns: all of them before the next
  // rows, which are a multiple of 4 KiB further on at most widths, so that L1 has few sets for them
  // and would lose a block between its halves.
  template <class F, int rows, class BlockOfA>
  static void add_columns(const Packed& w, int o, int first, int last, int s, int depth,
                          const BlockOfA& a, int column,
                          const typename F::template Decoder<T>* decode, const std::byte* ahead,
                          float* c, int ldc) {
    constexpr int kParts = F::Block::kColumns / kLanes;
    const std::int64_t bytes = F::Block::group_bytes(w.k);
    const std::byte* block = F::Block::block(w.data + s / kLanes * bytes, o);
    const int q = column / a.granule * rows;
    alignas(32) __m256i acc[kParts][rows][2];
    for (auto& sums : acc) {
      KT_UNROLL for (int i = 0; i < rows; ++i) sums[i][0] = sums[i][1] = T::set1(a.start[q + i]);
    }
    for (int r = 0; r < depth; r += T::kRun, decode += T::kRun / kLanes) {
      const int groups = min(T::kRun, depth - r) / kLanes;
      const auto* const codes = a.codes + column + r;
      if (first == 0) {
        add_run<F, rows, 0>(block, bytes, groups, codes, a.lda, decode, ahead, acc[0]);
      }
      if constexpr (kParts > 1) {
        const std::byte* const second = ahead + (1 - first) * F::Block::kSpan;
        if (last > 1) {
          add_run<F, rows, 1>(block, bytes, groups, codes, a.lda, decode, second, acc[1]);
        }
      }
      ahead += T::kRun / kLanes * bytes;
      block += T::kRun / kLanes * bytes;
    }
    for (int part = first; part < last; ++part, c += kLanes) {
      KT_UNROLL for (int i = 0; i < rows; ++i) {
        const __m256 scale = _mm256_set1_ps(a.scale[q + i]);
        KT_UNROLL for (int h = 0; h < 2; ++h) {
          float* const to = c + static_cast<std::int64_t>(i) * ldc + 8 * h;
          Avx2::store(to, _mm256_fmadd_ps(T::to_floats(acc[part][i][h]), scale, Avx2::load(to)));
        }
      }
    }
  }
  // Sixteen columns of a few groups of rows.
  template <class F, int rows, int part, class A>
  static void add_run(const std::byte* block, std::int64_t bytes, int groups, const A* codes,
                      int lda, const typename F::template Decoder<T>* decode,
                      const std::byte* ahead, __m256i (&acc)[rows][2]) {
    __m256i sums[rows][2];
    KT_UNROLL for (int i = 0; i < rows; ++i) sums[i][0] = sums[i][1] = T::set1(0);
    for (int g = 0; g < groups; ++g, block += bytes, ahead += bytes, codes += kLanes) {
      for (int b = 0; b < F::Block::kSpan; b += 64) __builtin_prefetch(ahead + b, 0, 2);
      KT_UNROLL for (int j = 0; j < 4; ++j) {
        __m256i quads[2];
        T::template interleave<F>(block, part, decode[g], j, quads);
        KT_UNROLL for (int step = 0; step < 4 / T::kStep; ++step) {
          const __m256i weights[2] = {T::along_n(quads[0], step), T::along_n(quads[1], step)};
          KT_UNROLL for (int i = 0; i < rows; ++i) {
            const __m256i x = T::broadcast(codes + i * lda + 4 * j + T::kStep * step);
            KT_UNROLL for (int h = 0; h < 2; ++h) sums[i][h] = T::dot(sums[i][h], weights[h], x);
          }
        }
      }
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      KT_UNROLL for (int h = 0; h < 2; ++h) acc[i][h] = T::add_sums(acc[i][h], sums[i][h]);
    }
  }

 private:
  friend T;
  Avx2FewRows() = default;
};

}  // namespace
}  // namespace kt
