// The register tile of integer products, written once over an integer vocabulary T: sums of int32
// over a granule, then to fp32, scaled, and added up; one addition to C at the end.
//
// Both operands advance by one dword per output and step: four products of 8 bits (VPDPBUSD) or two
// of 16 (PMADDWD). Each output has an integer and a floating-point sum. Where both are in registers
// a tile is half as large as one of floating-point products. A vocabulary whose sums are short
// ones, of 16 bits, has T::kShortSteps, which is how many steps fit in them.
#pragma once

namespace kt {
namespace {

// A panel's worth of A for one tile: the first row's codes, and its scale and start (quantize.h) in
// the first of the panel's granules, the next one's `next` further on.
template <class T>
struct TileRows {
  const typename T::A* codes;
  int lda;
  const float* scale;
  const std::int32_t* start;
  int next;
  int granule;
};

// acc[i][j] += products of the next `steps` steps, short ones where T has such.
template <class T, int rows, int wide>
void add_steps(TileRows<T>& a, const typename T::Panel*& panel, int steps, int next,
               typename T::Ints (&acc)[rows][wide]) {
  using I = typename T::Vector;
  constexpr int kRegisters = kLanes / I::kWidth;
  for (int k = 0; k < steps; ++k, panel += kLanes * T::kStep, a.codes += T::kStep) {
    typename T::Ints b[wide];
    KT_UNROLL for (int j = 0; j < wide; ++j) {
      b[j] = T::load_panel(panel + j / kRegisters * next + j % kRegisters * I::kWidth * T::kStep);
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      const auto x = T::broadcast(a.codes + i * a.lda);
      KT_UNROLL for (int j = 0; j < wide; ++j) acc[i][j] = T::dot(acc[i][j], b[j], x);
    }
  }
}

template <class T>
concept HasShortSums = requires { T::kShortSteps; };

// c[i][j] += w_scale[j] * sum over granules of scale[i] * (start[i] + sum of a * panel);
// w_scale null: 1. Products are added by name: left to itself the compiler fuses them in the tile
// of one size and not in that of another, and how columns fall into tiles depends on the threads.
template <class T, int rows, int vectors>
void integer_tile(TileRows<T> a, const typename T::Panel* panel, int depth, const float* w_scale,
                  float* c, int ldc) {
  using I = typename T::Vector;
  constexpr int kRegisters = kLanes / I::kWidth;  // of one vector of 16 outputs
  constexpr int kWide = vectors * kRegisters;
  const int next = T::panel_size(depth);
  typename I::F total[rows][kWide];
  KT_UNROLL for (int i = 0; i < rows; ++i) {
    KT_UNROLL for (int j = 0; j < kWide; ++j) total[i][j] = I::set1(0.0F);
  }
  for (int left = depth; left > 0; left -= a.granule) {
    typename T::Ints acc[rows][kWide];
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      const auto first = T::set1(a.start[i]);
      KT_UNROLL for (int j = 0; j < kWide; ++j) acc[i][j] = first;
    }
    const int steps = min(left, a.granule) / T::kStep;
    if constexpr (HasShortSums<T>) {
      for (int k = 0; k < steps; k += T::kShortSteps) {
        typename T::Ints sums[rows][kWide];
        KT_UNROLL for (int i = 0; i < rows; ++i) {
          KT_UNROLL for (int j = 0; j < kWide; ++j) sums[i][j] = T::set1(0);
        }
        add_steps<T>(a, panel, min(T::kShortSteps, steps - k), next, sums);
        KT_UNROLL for (int i = 0; i < rows; ++i) {
          KT_UNROLL for (int j = 0; j < kWide; ++j) acc[i][j] = T::add_sums(acc[i][j], sums[i][j]);
        }
      }
    } else {
      add_steps<T>(a, panel, steps, next, acc);
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      const auto scale = I::set1(a.scale[i]);
      KT_UNROLL for (int j = 0; j < kWide; ++j) {
        total[i][j] = I::add_product(total[i][j], scale, T::to_floats(acc[i][j]));
      }
    }
    a.scale += a.next;
    a.start += a.next;
  }
  KT_UNROLL for (int i = 0; i < rows; ++i) {
    KT_UNROLL for (int j = 0; j < kWide; ++j) {
      float* const to = c + static_cast<std::int64_t>(i) * ldc + j * I::kWidth;
      const auto before = I::load(to);
      I::store(to, w_scale != nullptr
                       ? I::add_product(before, total[i][j], I::load(w_scale + j * I::kWidth))
                       : before + total[i][j]);
    }
  }
}

template <class T, int rows>
void integer_tile_vectors(int vectors, const TileRows<T>& a, const typename T::Panel* panel,
                          int depth, const float* w_scale, float* c, int ldc) {
  if constexpr (T::kVectors >= 4) {
    if (vectors == 4) return integer_tile<T, rows, 4>(a, panel, depth, w_scale, c, ldc);
    if (vectors == 3) return integer_tile<T, rows, 3>(a, panel, depth, w_scale, c, ldc);
    if (vectors == 2) return integer_tile<T, rows, 2>(a, panel, depth, w_scale, c, ldc);
  }
  integer_tile<T, rows, 1>(a, panel, depth, w_scale, c, ldc);
}

template <class T, int rows = T::kRows>
void integer_tile_rows(int m, int vectors, const TileRows<T>& a, const typename T::Panel* panel,
                       int depth, const float* w_scale, float* c, int ldc) {
  if constexpr (rows > 1) {
    if (m < rows) {
      return integer_tile_rows<T, rows - 1>(m, vectors, a, panel, depth, w_scale, c, ldc);
    }
  }
  integer_tile_vectors<T, rows>(vectors, a, panel, depth, w_scale, c, ldc);
}

}  // namespace
}  // namespace kt
