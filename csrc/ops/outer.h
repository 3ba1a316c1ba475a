// Weight gradients of a low-rank factor: sums of outer products over an expert's tokens,
// c[i][j] += x[t][i] y[t][j].
//
// Tile: 16 columns of y in registers of sums for as many columns of x as half of the registers hold
// (8 of 16 or 16 of 32): per token as many products with a broadcast of x as there are sums, and
// loads of y for one in 16. Sums of fp32 products are at least as good as bf16's here, whose fp32
// operand would have to be two.
#pragma once

namespace kt {
namespace {

// Tokens at a time: 256 columns of them are 34 KiB, which stays in L1.
constexpr int kOuterRows = 32;

template <class I>
void outer_tile(int rows, const float* x, int ldx, const float* y, int ldy, float* c, int ldc) {
  constexpr int kRegisters = kLanes / I::kWidth;  // of 16 columns
  constexpr int kColumns = (I::kWidth == 16 ? 16 : 8) / kRegisters;
  static_assert(kLanes % kColumns == 0);
  for (int first = 0; first < kLanes; first += kColumns) {
    typename I::F sum[kColumns][kRegisters];
    KT_UNROLL for (int i = 0; i < kColumns; ++i) {
      KT_UNROLL for (int r = 0; r < kRegisters; ++r) {
        sum[i][r] = I::load(c + (first + i) * ldc + r * I::kWidth);
      }
    }
    const float* xt = x + first;
    const float* yt = y;
    for (int t = 0; t < rows; ++t, xt += ldx, yt += ldy) {
      typename I::F v[kRegisters];
      KT_UNROLL for (int r = 0; r < kRegisters; ++r) v[r] = I::load(yt + r * I::kWidth);
      KT_UNROLL for (int i = 0; i < kColumns; ++i) {
        const auto s = I::set1(xt[i]);
        KT_UNROLL for (int r = 0; r < kRegisters; ++r) {
          sum[i][r] = I::add_product(sum[i][r], s, v[r]);
        }
      }
    }
    KT_UNROLL for (int i = 0; i < kColumns; ++i) {
      KT_UNROLL for (int r = 0; r < kRegisters; ++r) {
        I::store(c + (first + i) * ldc + r * I::kWidth, sum[i][r]);
      }
    }
  }
}

// As kernels.h says.
template <class I>
void outer(const Rows& low, const float* weight, int rank, const Rows& wide, int from, int to,
           int rows, bool transposed, float* c, Scratch& scratch) {
  const int ranks = round_up(rank, kLanes);
  const int columns = round_up(to - from, kLanes);
  const int m = transposed ? columns : ranks;
  const int n = transposed ? ranks : columns;
  for (int i = 0; i < m * n; ++i) c[i] = 0.0F;
  // A line more, so that rows of a power-of-two length don't fall into the same L1 sets.
  const int ld_low = ranks + kLanes;
  const int ld_wide = columns + kLanes;
  auto* const low_rows = reinterpret_cast<float*>(scratch.a);
  float* const wide_rows = low_rows + kOuterRows * ld_low;
  for (int t = 0; t < rows; t += kOuterRows) {
    const int count = min(kOuterRows, rows - t);
    pack_a_float<I>(low.from(t), count, 0, rank, ranks, low_rows, ld_low);
    pack_a_float<I>(wide.from(t), count, from, to - from, columns, wide_rows, ld_wide);
    for (int i = 0; weight != nullptr && i < count; ++i) {
      for (int j = 0; j < ranks; ++j) low_rows[i * ld_low + j] *= weight[t + i];
    }
    const float* const x = transposed ? wide_rows : low_rows;
    const float* const y = transposed ? low_rows : wide_rows;
    const int ldx = transposed ? ld_wide : ld_low;
    const int ldy = transposed ? ld_low : ld_wide;
    for (int j = 0; j < n; j += kLanes) {
      for (int i = 0; i < m; i += kLanes) {
        outer_tile<I>(count, x + i, ldx, y + j, ldy, c + std::int64_t{i} * n + j, n);
      }
    }
  }
}

}  // namespace
}  // namespace kt
