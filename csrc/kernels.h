// What one pair of (instruction set, weight format) offers to the layer's walk: the layer binds
// one table at construction and calls through it, once for each block of rows. The bodies are the
// templates of ops/, compiled for the pair in isa/*.cpp.
#pragma once

#include "types.h"

namespace kt {

// Rows of one expert that a task works on at most. More rows would amortize the unpacking of a
// weight panel further (at 256 it is below 1%), fewer keep A and C blocks in a 512 KiB L2.
constexpr int kMaxRows = 256;
// Columns of C per task at most: 256 rows x 256 columns of fp32 is 256 KiB.
constexpr int kMaxCols = 256;
// Columns per task of the backward pass through the activation. Fixed, since the routing gradient
// is summed per such block: the same bits for any number of threads.
constexpr int kActivationCols = 128;

// One worker's buffers, allocated once; runtime/threads.cpp has their sizes.
// Elements from row to row of products: whole vectors, and one more where a column of rows would
// fall into four of L1's 64 sets (with 256 columns 48 rows take a tenth longer).
constexpr int c_stride(int cols) {
  const int whole = round_up(cols, kLanes);
  return whole % 256 == 0 ? whole + kLanes : whole;
}

struct Scratch {
  std::byte* a = nullptr;               // block of activations in the tile's operand type
  std::byte* panel = nullptr;           // block of weights in the tile's operand type
  std::byte* blocks = nullptr;          // row-major weights packed on the fly
  float* c[2] = {nullptr, nullptr};     // products, [kMaxRows][c_stride(kMaxCols)] each
  float* sums[2] = {nullptr, nullptr};  // as large: products before their scales
  const char* ran = "";                 // the instruction set of the last product
};

// c[t][i][o - out0] += sum over `axis` of a * w[t], for i < m, out0 <= o < out1, t < terms. Rows of
// c are ldc >= round_up(out1 - out0, kLanes) apart. All w share a shape; out0 is a multiple of
// kLanes, and along k out1 - out0 is at most kMaxCols. a is activations, rounded ones with
// weights of integer codes, or float32 with others.
template <class W>
using Gemm = void (*)(const Rows& a, int m, const W* w, float* const* c, int ldc, int terms,
                      int out0, int out1, Scratch& scratch);

// What the codes of a quantized format may be, and how many columns share a scale.
struct Integers {
  int low;
  int high;
  bool grouped;  // a scale for every Shape::group columns of a row; else one per row
};

struct Kernels {
  const char* format;

  std::size_t (*packed_bytes)(const Shape& shape);
  // Rows [n0, n1) of a matrix into their place in `packed`; n0 is a multiple of kLanes.
  void (*pack)(const Rows& source, int n0, int n1, const Shape& shape, std::byte* packed);
  // The packed matrix back in float32, [n][k].
  void (*unpack)(const Packed& w, float* out);
  // Of quantized formats; null for the others.
  const Integers* integers;
  // The first of `rows` rows of k weights that can't be rounded, since it holds NaN or infinity;
  // `rows`: none does.
  int (*first_not_finite)(const Rows& source, int rows, int k);
  // As pack, from codes and scales taken as they are; and a packed matrix's codes [n][k] and
  // scales.
  void (*pack_codes)(const Codes& source, int n0, int n1, const Shape& shape, std::byte* packed);
  void (*unpack_codes)(const Packed& w, std::int8_t* codes, float* scales);

  // Of quantized formats, by Axis; null for the others: the bytes of a row of activations rounded
  // for products with weights of this shape, `granule` columns to a scale, and m rows rounded, one
  // behind the other. They are the `a` of gemm for at most `rounded_rows` rows, and more are
  // multiplied as they lie. Along n they carry w's scales, so that they serve w alone.
  std::int64_t (*rounded_bytes[2])(const Shape& w, int granule);
  void (*round[2])(const Rows& a, int m, const Packed& w, std::byte* out);
  int (*rounded_rows[2])(const Shape& w);

  Gemm<Packed> gemm[2];         // by Axis
  Gemm<RowMajor> gemm_rows[2];  // by Axis

  // c[i][j] = sum over t < rows of weight[t] low[t][i] wide[t][j], i < rank, j in [from, to); or
  // c[j][i], if transposed. weight null: 1. low is in fp32; both sides of c are padded to kLanes,
  // [round_up(rank, kLanes)][round_up(to - from, kLanes)], and neither is above kMaxCols.
  void (*outer)(const Rows& low, const float* weight, int rank, const Rows& wide, int from, int to,
                int rows, bool transposed, float* c, Scratch& scratch);

  // h = silu(g) * u; g, u: fp32 [m][n], stored as activations too unless gate/up are null. Output
  // rows are `stride` elements apart. n is a multiple of kLanes.
  void (*swiglu)(const float* g, const float* u, int ldc, int m, int n, act_t* gate, act_t* up,
                 act_t* h, std::int64_t stride);
  // From dh' = dL/dh before the routing weight r, fp32 rows ldh apart: dg, du, h and
  // dr[i * dr_stride] = <dh', h>.
  void (*swiglu_backward)(const float* dh, int ldh, const float* r, int m, int n, const act_t* gate,
                          const act_t* up, act_t* dgate, act_t* dup, act_t* h, std::int64_t stride,
                          float* dr, std::int64_t dr_stride);
  // out[index[i]][j] += (scale ? scale[i] : 1) * c[i][j], j < n; out rows `stride` elements apart.
  void (*scatter_add)(const float* c, int ldc, int m, int n, const std::int32_t* index,
                      const float* scale, float* out, std::int64_t stride);
  // out[i][j] = scale * c[i][j], j < round_up(n, kLanes).
  void (*store_rows)(const float* c, int ldc, int m, int n, float scale, float* out,
                     std::int64_t stride);
  // n elements of any float type to activations, and sums of `parts` fp32 rows to any float type.
  void (*to_act)(const std::byte* in, DType dtype, std::int64_t n, act_t* out);
  void (*sum_parts)(const float* in, int parts, std::int64_t part_stride, std::int64_t n,
                    DType dtype, std::byte* out);
};

}  // namespace kt
