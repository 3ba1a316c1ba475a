// Integer products on AMX: TDPBSUD multiplies up to 16 rows of 64 signed bytes of A by as many
// unsigned ones of a panel. Panels, A and products of few rows are those of AVX-512 with VNNI and
// VBMI.
//
// A product takes 64 columns, which is a granule of A: after each the sums of int32 leave the unit
// to be scaled, 32 x 32 of them in four tiles, 64 cycles of the unit, and a sum is ready only 52
// after its product. So a panel's granules are summed into one buffer while those of the tiles
// before, in the other, are scaled. On a Sapphire Rapids 128 rows take 0.65 of the time of VNNI's
// tiles that way; one after the other, with C read and written for each granule, it was 0.9.
#pragma once

namespace kt {
namespace {

// The numbers of tiles are part of an instruction. C: 0 to 3; A, signed: 4, 5; B, unsigned: 6, 7.
struct DotBytes {
  static void c0() { _tile_dpbsud(0, 4, 6); }
  static void c1() { _tile_dpbsud(1, 4, 7); }
  static void c2() { _tile_dpbsud(2, 5, 6); }
  static void c3() { _tile_dpbsud(3, 5, 7); }
};

struct AmxInteger : Avx512Vbmi {
  static constexpr int kRows = 32;

  class Tiles {
   public:
    // As IntegerTiles in ops/gemm_integer.h.
    void operator()(int m, int vectors, const IntegerRows<AmxInteger>& a, int column,
                    const Panel* panel, int depth, const float* w_scale, float* c, int ldc,
                    Ahead ahead) {
      const int count = div_up(m, kTileRows);
      const int rows = div_up(m, count);  // alike; the last tile's may end behind A's (scratch)
      const int pieces = div_up(m, 2 * rows) * div_up(vectors, 2);
      const int granules = div_up(depth, a.granule);
      stored(panel);
      Piece before{};
      for (int i = 0, t = 0; i < m; i += 2 * rows) {
        for (int v = 0; v < vectors; v += 2, ++t) {
          ahead.fetch(t, pieces);
          const int first = column / a.granule * m + i;
          const Piece piece{min(2 * rows, m - i),
                            v + 1 < vectors,
                            granules,
                            m,
                            a.scale + first,
                            a.start + first,
                            w_scale != nullptr ? w_scale + v * kLanes : nullptr,
                            c + std::int64_t{i} * ldc + v * kLanes,
                            ldc,
                            sums_[t % 2]};
          const A* const codes = a.codes + std::int64_t{i} * a.lda + column;
          const Panel* const b = panel + v * panel_size(depth);
          for (int g = 0; g < granules; ++g) {
            const int at = g * a.granule;
            sum(rows, i + rows < m, piece.wide, codes + at, a.lda, b + panel_size(at),
                panel_size(depth), min(a.granule, depth - at), piece.sums[g]);
            before.add(before.rows * g / granules, before.rows * (g + 1) / granules);
          }
          before = piece;
        }
      }
      before.add(0, before.rows);
    }

   private:
    static constexpr int kTileRows = 16;
    static constexpr int kMostGranules = kPanelDepth / 32;
    using Sums = std::int32_t[2 * kTileRows][2 * kLanes];

    // Up to 2 x 2 tiles over a panel's depth: the sums of their granules, and where they go.
    struct Piece {
      int rows;
      bool wide;  // two vectors of columns
      int granules;
      int next;  // from a granule's scales and starts to the next one's
      const float* scale;
      const std::int32_t* start;
      const float* w_scale;  // null: 1
      float* c;
      int ldc;
      Sums* sums;

      void add(int from, int to) const {
        if (wide) {
          add_columns<2>(from, to);
        } else {
          add_columns<1>(from, to);
        }
      }

     private:
      template <int vectors>
      void add_columns(int from, int to) const {
        __m512 of_columns[vectors];
        KT_UNROLL for (int j = 0; j < vectors; ++j) {
          of_columns[j] =
              w_scale != nullptr ? _mm512_loadu_ps(w_scale + j * kLanes) : _mm512_set1_ps(1.0F);
        }
        for (int r = from; r < to; ++r) {
          __m512 total[vectors];
          KT_UNROLL for (int j = 0; j < vectors; ++j) total[j] = _mm512_setzero_ps();
          for (int g = 0; g < granules; ++g) {
            const __m512 factor = _mm512_set1_ps(scale[g * next + r]);
            const Ints first = set1(start[g * next + r]);
            KT_UNROLL for (int j = 0; j < vectors; ++j) {
              const Ints sum = _mm512_load_si512(&sums[g][r][j * kLanes]);
              total[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sum, first)), factor,
                                         total[j]);
            }
          }
          float* const out = c + std::int64_t{r} * ldc;
          KT_UNROLL for (int j = 0; j < vectors; ++j) {
            const __m512 value = _mm512_loadu_ps(out + j * kLanes);
            _mm512_storeu_ps(out + j * kLanes, _mm512_fmadd_ps(total[j], of_columns[j], value));
          }
        }
      }
    };

    // Sums over one granule for up to 2 x 2 tiles.
    void sum(int rows, bool two, bool wide, const A* codes, int lda, const Panel* b, int next,
             int columns, Sums& sums) {
      int steps = div_up(columns, 64);  // alike, of whole dwords
      while (columns % (4 * steps) != 0) ++steps;
      const int step = columns / steps;
      unit_.configure(rows, step);
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int k = 0; k < columns; k += step) {
        multiply(rows, two, wide, codes + k, lda, b + panel_size(k), next);
      }
      constexpr int kStride = sizeof sums[0];
      _tile_stored(0, &sums[0][0], kStride);
      if (wide) _tile_stored(1, &sums[0][kLanes], kStride);
      if (two) _tile_stored(2, &sums[rows][0], kStride);
      if (two && wide) _tile_stored(3, &sums[rows][kLanes], kStride);
      stored(sums);
    }

    static void multiply(int rows, bool two, bool wide, const A* codes, int lda, const Panel* b,
                         int next) {
      _tile_loadd(4, codes, lda);
      _tile_loadd(6, b, 64);
      DotBytes::c0();
      if (wide) {
        _tile_loadd(7, b + next, 64);
        DotBytes::c1();
      }
      if (!two) return;
      _tile_loadd(5, codes + std::int64_t{rows} * lda, lda);
      DotBytes::c2();
      if (wide) DotBytes::c3();
    }

    TileUnit unit_;
    alignas(64) Sums sums_[2][kMostGranules];
  };
};

}  // namespace
}  // namespace kt
