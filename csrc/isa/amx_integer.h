// Integer products on AMX: TDPBSUD multiplies up to 16 rows of 64 signed bytes of A by as many
// unsigned ones of a panel. Panels, A and products of few rows are those of AVX-512 with VNNI and
// VBMI.
//
// A product takes 64 columns, which is a granule of A: after each the sums of int32 leave the unit
// to be scaled, 16 x 16 of them for 16 cycles of the unit. So the scaling in AVX-512, about two
// cycles a row, is the limit here and not the unit. Not measured yet.
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
      stored(panel);
      for (int first = 0; first < depth; first += a.granule) {
        ahead.fetch(first / a.granule, div_up(depth, a.granule));
        const int columns = min(a.granule, depth - first);
        const float* const scale = a.scale + (column + first) / a.granule * m;
        const std::int32_t* const start = a.start + (column + first) / a.granule * m;
        for (int i = 0; i < m; i += 2 * rows) {
          const bool two = i + rows < m;
          const A* const codes = a.codes + std::int64_t{i} * a.lda + column + first;
          for (int v = 0; v < vectors; v += 2) {
            const Panel* const b = panel + v * panel_size(depth) + panel_size(first);
            const bool wide = v + 1 < vectors;
            sum(rows, two, wide, codes, a.lda, b, panel_size(depth), columns);
            for (int r = 0; r < min(two ? 2 * rows : rows, m - i); ++r) {
              for (int j = 0; j < (wide ? 2 : 1); ++j) {
                const Ints total =
                    _mm512_add_epi32(_mm512_load_si512(&sums_[r][j * kLanes]), set1(start[i + r]));
                add_scaled(total, scale[i + r],
                           w_scale != nullptr ? w_scale + (v + j) * kLanes : nullptr,
                           c + std::int64_t{i + r} * ldc + (v + j) * kLanes);
              }
            }
          }
        }
      }
    }

   private:
    static constexpr int kTileRows = 16;

    // Sums over one granule for up to 2 x 2 tiles, to sums_.
    void sum(int rows, bool two, bool wide, const A* codes, int lda, const Panel* b, int next,
             int columns) {
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
      constexpr int kStride = sizeof sums_[0];
      _tile_stored(0, &sums_[0][0], kStride);
      if (wide) _tile_stored(1, &sums_[0][kLanes], kStride);
      if (two) _tile_stored(2, &sums_[rows][0], kStride);
      if (two && wide) _tile_stored(3, &sums_[rows][kLanes], kStride);
      stored(sums_);
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
    alignas(64) std::int32_t sums_[2 * kTileRows][2 * kLanes];
  };
};

}  // namespace
}  // namespace kt
