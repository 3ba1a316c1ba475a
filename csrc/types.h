// The few types that every layer of the core shares. Nothing here allocates or computes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kt {

// bfloat16, the type in which activations are stored between kernels.
struct act_t {
  std::uint16_t bits;
};

enum class DType : std::uint8_t { bfloat16, float32, float16, int64, int32, boolean };

// A weight matrix W[n][k] is summed along k in the forward pass (Y = X W') and along n in the
// backward pass (dX = dY W).
enum class Axis : std::uint8_t { k, n };

// Rows of floats somewhere in memory: the activations of an expert's tokens (gathered by
// `index`), a caller's LoRA matrix, or a scratch matrix. Element (i, j) lies at
// base + row(i) * stride + j * size. A transposed view swaps i and j; `scale`, if set, multiplies
// element (i, j) of a transposed view by scale[j] (the routing weight of stored row j).
struct Rows {
  const std::byte* base = nullptr;
  std::int64_t stride = 0;              // bytes from one stored row to the next
  const std::int32_t* index = nullptr;  // stored row i is index[i]; null: i itself
  DType dtype = DType::bfloat16;        // bfloat16 or float32
  bool transposed = false;
  const float* scale = nullptr;

  [[nodiscard]] const std::byte* row(std::int64_t i) const {
    return base + (index != nullptr ? index[i] : i) * stride;
  }
  [[nodiscard]] Rows from(std::int64_t first) const {  // the view without its first stored rows
    Rows r = *this;
    if (index != nullptr) {
      r.index += first;
    } else {
      r.base += first * stride;
    }
    if (scale != nullptr) r.scale += first;
    return r;
  }
};

// A weight matrix packed by a format (formats/*.h say how).
struct Packed {
  const std::byte* data = nullptr;
  int n = 0;
  int k = 0;
};

// A weight matrix used as it lies, row by row: LoRA matrices, and activations in weight gradients.
struct RowMajor {
  Rows rows;
  int n = 0;
  int k = 0;
};

// Blocks of 16-bit weights, 16 rows x 8 columns each, as formats/bf16.h lays them out: the common
// operand of all formats' products. Along n, groups of 16 rows are `stride` bytes apart.
struct Blocks {
  const std::byte* data;
  std::int64_t stride;
};

constexpr int kLanes = 16;  // matrices are padded to this many rows and columns

constexpr int round_up(int x, int to) { return (x + to - 1) / to * to; }
constexpr int div_up(int x, int by) { return (x + by - 1) / by; }
constexpr int min(int a, int b) { return a < b ? a : b; }
constexpr int max(int a, int b) { return a > b ? a : b; }

}  // namespace kt
