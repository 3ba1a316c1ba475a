// The few types that every layer of the core shares. Nothing here allocates or computes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kt {

// bfloat16, the type in which activations are stored between kernels.
struct act_t {
  std::uint16_t bits;
};

enum class DType : std::uint8_t { bfloat16, float32, float16, int64, int32, int8, boolean };

// A weight matrix W[n][k] is summed along k in the forward pass (Y = X W') and along n in the
// backward pass (dX = dY W).
enum class Axis : std::uint8_t { k, n };

// Rows of floats somewhere in memory: the activations of an expert's tokens (gathered by
// `index`), a caller's LoRA matrix, or a scratch matrix. Element (i, j) lies at
// base + row(i) * stride + j * size.
struct Rows {
  const std::byte* base = nullptr;
  std::int64_t stride = 0;              // bytes from one stored row to the next
  const std::int32_t* index = nullptr;  // stored row i is index[i]; null: i itself
  DType dtype = DType::bfloat16;        // bfloat16, float32, or int8: rounded (ops/quantize.h)
  // Columns that share a scale where the rows are rounded to integers (ops/quantize.h), a multiple
  // of 32, which is a block of the narrowest codes. Normal values lose 0.59% at 64, and 0.65% at
  // 128.
  int granule = 64;

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
    return r;
  }
};

// A weight matrix [n][k]; `group` columns of a row share a scale in the formats that have groups.
struct Shape {
  int n = 0;
  int k = 0;
  int group = 0;
};

// A weight matrix packed by a format (formats/*.h say how).
struct Packed : Shape {
  const std::byte* data = nullptr;
};

// Rows of a matrix that is quantized already: codes [n][k], and scales [n] or [n][k / group].
// Strides are in elements.
struct Codes {
  const std::int8_t* codes = nullptr;
  std::int64_t stride = 0;
  const float* scales = nullptr;
  std::int64_t scale_stride = 0;
};

// A weight matrix used as it lies, row by row: a LoRA matrix.
struct RowMajor {
  Rows rows;
  int n = 0;
  int k = 0;
};

constexpr int kLanes = 16;  // matrices are padded to this many rows and columns

// All formats cut their codes into blocks of 16 rows by 16 bytes, four vectors of 64 bytes: row
// r of a block is lane r / 4 of vector r % 4. formats/bf16.h says what that order is good for.
constexpr int kBlockBytes = 256;
constexpr int block_row(int row) { return ((row % 4) * 4 + row / 4) * 16; }

// Blocks of 16-bit weights, 16 rows x 8 columns each: the operand of floating-point products.
// Along n, groups of 16 rows are `stride` bytes apart.
struct Blocks {
  const std::byte* data;
  std::int64_t stride;
};

constexpr int round_up(int x, int to) { return (x + to - 1) / to * to; }
constexpr int div_up(int x, int by) { return (x + by - 1) / by; }
constexpr int min(int a, int b) { return a < b ? a : b; }
constexpr int max(int a, int b) { return a > b ? a : b; }

}  // namespace kt
