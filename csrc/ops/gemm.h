// C += A W' or A W: blocks of weights are unpacked into L1 in the tile's operand type, and every
// row of A runs over them before the next. Both directions and all formats share this loop nest;
// they differ in how a panel is unpacked. Compiled inside each instruction set's target region.
#pragma once

// Internal linkage: each instruction set's file has a copy of its own, and the linker can't hand
// one compiled for AVX to baseline code.
namespace kt {
namespace {

// Bytes of A kept in L2 while the weights stream past: a quarter of the smallest L2 we plan for
// (512 KiB), the rest being C and the panel's source lines.
constexpr int kABudget = 128 * 1024;

// A is copied into the operand type with this many elements between the rows' ends, so that rows
// of a power-of-two length don't fall into the same L1 sets.
constexpr int kAPad = 16;

// How many columns of A to hold at a time. Along k a long run keeps the weights' lines in address
// order (a group of rows is contiguous in k); along n the contiguous direction is the output, so
// one panel's depth at a time does.
template <class I, Axis axis>
int a_depth(int m, int sum) {
  if constexpr (axis == Axis::n) return min(sum, I::kDepth);
  const int fit = kABudget / (m * static_cast<int>(sizeof(typename I::A))) / I::kDepth * I::kDepth;
  return min(sum, max(I::kDepth, fit));
}

template <class I, int rows>
void tile_vectors(int vectors, const typename I::A* a, int lda, const typename I::Panel* panel,
                  int depth, float* c, int ldc) {
  if constexpr (I::kVectors >= 4) {
    if (vectors == 4) return I::template tile<rows, 4>(a, lda, panel, depth, c, ldc);
    if (vectors == 3) return I::template tile<rows, 3>(a, lda, panel, depth, c, ldc);
  }
  if constexpr (I::kVectors >= 2) {
    if (vectors == 2) return I::template tile<rows, 2>(a, lda, panel, depth, c, ldc);
  }
  I::template tile<rows, 1>(a, lda, panel, depth, c, ldc);
}

// Dispatches on the number of rows, I::kRows at most, so that each tile's accumulators are
// registers.
template <class I, int rows = I::kRows>
void tile_rows(int m, int vectors, const typename I::A* a, int lda, const typename I::Panel* panel,
               int depth, float* c, int ldc) {
  if constexpr (rows == 1) {
    tile_vectors<I, 1>(vectors, a, lda, panel, depth, c, ldc);
  } else if (m == rows) {
    tile_vectors<I, rows>(vectors, a, lda, panel, depth, c, ldc);
  } else {
    tile_rows<I, rows - 1>(m, vectors, a, lda, panel, depth, c, ldc);
  }
}

// All rows over one panel. Rows are shared out evenly: 128 rows in tiles of 6 are 18 tiles of 6
// and 4 of 5, not 21 of 6 and one of 2 that would wait on its few accumulators' latency.
template <class I>
void tiles(int m, int vectors, const typename I::A* a, int lda, const typename I::Panel* panel,
           int depth, float* c, int ldc) {
  const int count = div_up(m, I::kRows);
  for (int t = 0, i = 0; t < count; ++t) {
    const int rows = m / count + (t < m % count ? 1 : 0);
    tile_rows<I>(rows, vectors, a + static_cast<std::int64_t>(i) * lda, lda, panel, depth,
                 c + static_cast<std::int64_t>(i) * ldc, ldc);
    i += rows;
  }
}

template <class I, class F, Axis axis, class W>
void gemm(const Rows& a, int m, const W* w, float* const* c, int terms, int out0, int out1,
          Scratch& scratch) {
  const int valid = axis == Axis::k ? w[0].k : w[0].n;  // columns of A
  const int sum = round_up(valid, kLanes);              // as the format stores them
  const int ldc = round_up(out1 - out0, kLanes);
  const int depth = a_depth<I, axis>(m, sum);
  const int lda = round_up(depth, kLanes) + kAPad;
  auto* const pa = reinterpret_cast<typename I::A*>(scratch.a);
  auto* const panel = reinterpret_cast<typename I::Panel*>(scratch.panel);
  for (int s0 = 0; s0 < sum; s0 += depth) {
    const int length = min(depth, sum - s0);
    I::template pack_a<axis>(a, m, s0, min(length, valid - s0), length, pa, lda);
    for (int t = 0; t < terms; ++t) {
      for (int o = out0; o < out1; o += I::kVectors * kLanes) {
        const int vectors = min(I::kVectors, div_up(out1 - o, kLanes));
        for (int q = 0; q < length; q += I::kDepth) {
          const int d = min(I::kDepth, length - q);
          F::template panel<I, axis>(w[t], o, vectors, s0 + q, d, panel, scratch.blocks);
          tiles<I>(m, vectors, pa + q, lda, panel, d, c[t] + (o - out0), ldc);
        }
      }
    }
  }
  scratch.ran = I::kName;
}

// The compute roof: the full tile over operands that stay in L1.
template <class I>
double peak_round(int rounds, Scratch& scratch) {
  constexpr int kDepth = 128;
  auto* const a = reinterpret_cast<typename I::A*>(scratch.a);
  auto* const panel = reinterpret_cast<typename I::Panel*>(scratch.panel);
  for (int i = 0; i < rounds; ++i) {
    I::template tile<I::kRows, I::kVectors>(a, kDepth + kAPad, panel, kDepth, scratch.c[0],
                                            I::kVectors * kLanes);
  }
  return 2.0 * rounds * I::kRows * I::kVectors * kLanes * kDepth;
}

}  // namespace
}  // namespace kt
