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

// Elements from row to row of A's copy: whole cache lines, since a tile's load that reads a row at
// a time would otherwise touch two lines for each, and one more, so that rows of a power-of-two
// length don't fall into the same L1 sets.
template <class I>
constexpr int a_stride(int depth) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(typename I::A));
  return round_up(depth, kLine) + kLine;
}

// Whether few enough rows and, along k, a sum long enough that reducing its lanes costs little.
template <class I, Axis axis>
bool is_direct(int m, int sum) {
  return m <= I::kDirectTiles * I::kDirectRows && (axis == Axis::n || sum >= I::kDirectLength);
}

// Rows are shared out evenly: 128 rows in tiles of 6 are 18 tiles of 6 and 4 of 5, not 21 of 6 and
// one of 2 that would wait on its few accumulators' latency. The t-th of `count` tiles:
struct TileOfRows {
  int first;
  int rows;
};
inline TileOfRows tile_of_rows(int m, int count, int t) {
  return {m / count * t + min(t, m % count), m / count + (t < m % count ? 1 : 0)};
}

// How many columns of A to hold at a time. Along k a long run keeps the weights' lines in address
// order (a group of rows is contiguous in k); along n the contiguous direction is the output, so
// one panel's depth at a time does.
template <class I, class F, Axis axis>
int a_depth(int m, int sum, bool straight) {
  if constexpr (axis == Axis::n) return min(sum, straight ? I::kDirectDepth : I::kDepth);
  const int fit = kABudget / (m * static_cast<int>(sizeof(typename I::A))) / I::kDepth * I::kDepth;
  return min(sum, min(F::kMaxDepth, max(I::kDepth, fit)));
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

// Where a panel begins.
struct Corner {
  int output;
  int sum;
};

// The stored weights of the next panel, as pieces of whole lines a stride apart. They are fetched
// into L2 between the tiles of the panel at hand: all at once they would wait for each other, a
// core having 16 lines on their way at most, and the products for them.
class Ahead {
 public:
  Ahead(const std::byte* first, std::int64_t stride, int pieces, int bytes)
      : piece_(first), at_(first), stride_(stride), bytes_(bytes), lines_(pieces * bytes / kLine) {}
  // The t-th of `count` shares.
  void fetch(int t, int count) {
    for (int n = lines_ * (t + 1) / count - lines_ * t / count; n > 0; --n) {
      __builtin_prefetch(at_, 0, 2);
      at_ += kLine;
      if (at_ == piece_ + bytes_) at_ = piece_ += stride_;
    }
  }

 private:
  static constexpr int kLine = 64;
  const std::byte* piece_;
  const std::byte* at_;
  std::int64_t stride_;
  int bytes_;
  int lines_;
};

// All rows over one panel.
template <class I>
void tiles(int m, int vectors, const typename I::A* a, int lda, const typename I::Panel* panel,
           int depth, float* c, int ldc, Ahead ahead) {
  const int count = div_up(m, I::kRows);
  for (int t = 0; t < count; ++t) {
    ahead.fetch(t, count);
    const TileOfRows tile = tile_of_rows(m, count, t);
    tile_rows<I>(tile.rows, vectors, a + static_cast<std::int64_t>(tile.first) * lda, lda, panel,
                 depth, c + static_cast<std::int64_t>(tile.first) * ldc, ldc);
  }
}

// 16 outputs along k, `vectors` times as many along n, for few rows straight from the blocks: a
// panel that serves one tile or two only would be written and read for nothing.
template <class I, Axis axis, int rows = I::kDirectRows>
void direct(int m, Blocks w, int vectors, int length, const typename I::A* a, int lda, float* c,
            int ldc) {
  if constexpr (rows > 0) {
    if (m < rows) return direct<I, axis, rows - 1>(m, w, vectors, length, a, lda, c, ldc);
    if constexpr (axis == Axis::k) {
      I::template direct_k<rows>(w.data, length, a, lda, c, ldc);
    } else {
      I::template direct_n<rows>(w.data, w.stride, vectors, length, a, lda, c, ldc);
    }
  }
}

// What the panel of as many outputs and sums at `next` is made of, where it lies in memory.
template <class I, class F, Axis axis, class W>
Ahead ahead_of(const W& w, Corner next, int vectors, int depth) {
  if constexpr (F::kStored) {
    const Blocks blocks = F::template blocks<I, axis>(w, next.output, next.sum, depth, nullptr);
    const int groups = div_up(depth, kLanes);
    return axis == Axis::k ? Ahead(blocks.data, blocks.stride, vectors, groups * F::kSpan)
                           : Ahead(blocks.data, blocks.stride, groups, vectors * F::kSpan);
  } else {
    return {nullptr, 0, 0, 0};
  }
}

// Outputs [o, o + 16 * vectors), sums [s0, s0 + length), of few rows straight from the blocks.
template <class I, class F, Axis axis, class W>
void multiply_few(const W& w, int m, int o, int vectors, int s0, int length, const typename I::A* a,
                  int lda, float* c, int ldc, Scratch& scratch) {
  const Blocks blocks = F::template blocks<I, axis>(w, o, s0, length, scratch.blocks);
  const int count = div_up(m, I::kDirectRows);
  for (int t = 0; t < count; ++t) {
    const TileOfRows tile = tile_of_rows(m, count, t);
    direct<I, axis>(tile.rows, blocks, vectors, length,
                    a + static_cast<std::int64_t>(tile.first) * lda, lda,
                    c + static_cast<std::int64_t>(tile.first) * ldc, ldc);
  }
}

// By way of panels. The one behind them begins at `next`.
template <class I, class F, Axis axis, class W>
void multiply(const W& w, int m, int o, int vectors, int s0, int length, Corner next,
              const typename I::A* a, int lda, float* c, int ldc, Scratch& scratch) {
  auto* const panel = reinterpret_cast<typename I::Panel*>(scratch.panel);
  for (int q = 0; q < length; q += I::kDepth) {
    const int d = min(I::kDepth, length - q);
    for (int v = 0; v < vectors; ++v) {
      const Blocks blocks =
          F::template blocks<I, axis>(w, o + v * kLanes, s0 + q, d, scratch.blocks);
      auto* const to = panel + v * I::panel_size(d);
      if constexpr (axis == Axis::k) {
        I::unpack_k(blocks.data, d, to);
      } else {
        I::unpack_n(blocks.data, blocks.stride, d, to);
      }
    }
    const Corner behind = q + d < length ? Corner{o, s0 + q + d} : next;
    tiles<I>(m, vectors, a + q, lda, panel, d, c, ldc, ahead_of<I, F, axis>(w, behind, vectors, d));
  }
}

// An instruction set whose tiles are no vector registers has a loop nest of its own for rows that
// are not few.
template <class I, class F, class W>
concept HasGemm = requires { &I::template gemm<F, Axis::k, W>; };

template <class I, class F, Axis axis, class W>
void gemm(const Rows& a, int m, const W* w, float* const* c, int ldc, int terms, int out0, int out1,
          Scratch& scratch) {
  const int valid = axis == Axis::k ? w[0].k : w[0].n;  // columns of A
  const int sum = round_up(valid, kLanes);              // as the format stores them
  const bool straight = is_direct<I, axis>(m, sum);
  if constexpr (HasGemm<I, F, W>) {
    if (!straight) return I::template gemm<F, axis>(a, m, w, c, ldc, terms, out0, out1, scratch);
  }
  const int depth = a_depth<I, F, axis>(m, sum, straight);
  const int lda = a_stride<I>(depth);
  const int step = !straight         ? I::kVectors
                   : axis == Axis::n ? min(I::kDirectVectors, F::kDirectVectors)
                                     : 1;  // of kLanes outputs
  auto* const pa = reinterpret_cast<typename I::A*>(scratch.a);
  for (int s0 = 0; s0 < sum; s0 += depth) {
    const int length = min(depth, sum - s0);
    for (int piece = 0; piece < I::a_pieces(a.dtype); ++piece) {
      I::template pack_a<axis>(a, piece, m, s0, min(length, valid - s0), length, pa, lda);
      for (int t = 0; t < terms; ++t) {
        for (int o = out0; o < out1; o += step * kLanes) {
          const int vectors = min(step, div_up(out1 - o, kLanes));
          const int behind = o + step * kLanes;
          const Corner next = behind < out1 ? Corner{behind, s0} : Corner{out0, s0 + depth};
          float* const to = c[t] + (o - out0);
          if constexpr (I::kDirectRows > 0) {
            if (straight) {
              multiply_few<I, F, axis>(w[t], m, o, vectors, s0, length, pa, lda, to, ldc, scratch);
              continue;
            }
          }
          if constexpr (!HasGemm<I, F, W>) {
            multiply<I, F, axis>(w[t], m, o, vectors, s0, length, next, pa, lda, to, ldc, scratch);
          }
        }
      }
    }
  }
  scratch.ran = I::kName;
}

}  // namespace
}  // namespace kt
