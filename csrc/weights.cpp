#include "weights.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "dispatch.h"

namespace kt {
namespace {

constexpr int kRows = 256;  // of a matrix per task

// The lowest row that any task reports, in parallel: body(first, last) returns one, or `last`.
template <class Body>
int first_row(Pool::Use& pool, int rows, Body body) {
  std::atomic<int> found{rows};
  pool.run(1, div_up(rows, kRows), [&](int /*part*/, int task, Scratch&) {
    const int last = min(rows, (task + 1) * kRows);
    const int row = body(task * kRows, last);
    if (row == last) return;
    int before = found.load();
    while (row < before && !found.compare_exchange_weak(before, row)) {
    }
  });
  return found;
}

// The kernels of a format that has codes, and the shape of a matrix that is codes and scales.
const Kernels& quantized(const std::string& format) {
  const Kernels& table = kernels("", format);
  if (table.integers != nullptr) return table;
  throw std::invalid_argument("format " + format + " has no codes");
}

Shape shape_of(const Kernels& kernels, const Tensor& codes, const Tensor& scales) {
  if (codes.shape.size() != 2) {
    throw std::invalid_argument(codes.name + ": shape " + text(codes.shape) + ", wanted [n, k]");
  }
  const std::int64_t n = codes.shape[0];
  const std::int64_t k = codes.shape[1];
  constexpr std::int64_t kMost = std::numeric_limits<int>::max() - kRows;
  if (n > kMost || k > kMost) {
    throw std::invalid_argument(codes.name + ": shape " + text(codes.shape) + ", wanted at most " +
                                std::to_string(kMost) + " rows and columns");
  }
  if (!kernels.integers->grouped) {
    scales.want({DType::float32}, {n});
    return {static_cast<int>(n), static_cast<int>(k), 0};
  }
  for (const int group : {32, 64, 128}) {
    if (k % group != 0 || scales.shape != std::vector<std::int64_t>{n, k / group}) continue;
    scales.want({DType::float32}, scales.shape);
    return {static_cast<int>(n), static_cast<int>(k), group};
  }
  throw std::invalid_argument(scales.name + ": shape " + text(scales.shape) +
                              ", wanted a scale for every 32, 64 or 128 columns of " +
                              text(codes.shape));
}

// body(first row, the piece's shape and memory), piece by piece of kRows rows, in parallel: a row's
// codes and scales do not depend on the others.
template <class Body>
void by_pieces(Pool::Use& pool, const Kernels& kernels, const Shape& shape, Body body) {
  const int tasks = div_up(shape.n, kRows);
  const std::size_t bytes =
      Arena::padded(kernels.packed_bytes({min(shape.n, kRows), shape.k, shape.group}));
  Memory packed(static_cast<std::size_t>(tasks) * bytes);
  pool.run(1, tasks, [&](int /*part*/, int task, Scratch&) {
    const int first = task * kRows;
    body(first, Shape{min(kRows, shape.n - first), shape.k, shape.group},
         packed.data() + static_cast<std::size_t>(task) * bytes);
  });
}

struct Pieces {
  std::int8_t* codes;
  float* scales;
  std::int64_t columns;
  std::int64_t groups;

  Pieces(const Shape& shape, const Tensor& code, const Tensor& scale)
      : codes(reinterpret_cast<std::int8_t*>(code.data)),
        scales(reinterpret_cast<float*>(scale.data)),
        columns(shape.k),
        groups(scale.shape.size() == 2 ? scale.shape[1] : 1) {}
  [[nodiscard]] std::int8_t* codes_of(int row) const { return codes + row * columns; }
  [[nodiscard]] float* scales_of(int row) const { return scales + row * groups; }
};

}  // namespace

void want_finite(Pool::Use& pool, const Kernels& kernels, const Tensor& t) {
  const auto n = static_cast<int>(t.shape[0]);
  const Rows rows = t.rows(0, n, t.shape[1]);
  const int bad = first_row(pool, n, [&](int first, int last) {
    return first +
           kernels.first_not_finite(rows.from(first), last - first, static_cast<int>(t.shape[1]));
  });
  if (bad == n) return;
  throw std::invalid_argument(t.name + ": row " + std::to_string(bad) +
                              " holds NaN or infinity, wanted finite weights, which alone " +
                              kernels.format + " can hold");
}

void want_codes(Pool::Use& pool, const Kernels& kernels, const Tensor& codes,
                const Tensor& scales) {
  const auto n = static_cast<int>(codes.shape[0]);
  const auto k = static_cast<std::int64_t>(codes.shape[1]);
  const std::int64_t groups = scales.shape.size() == 2 ? scales.shape[1] : 1;
  const auto* const code = reinterpret_cast<const std::int8_t*>(codes.data);
  const auto* const scale = reinterpret_cast<const float*>(scales.data);
  const int high = kernels.integers->high;
  // All that the bits hold, though rounding here never gives int8's -128: published codes have it.
  const int low = -high - 1;
  const int bad_code = first_row(pool, n, [&](int first, int last) {
    for (int r = first; r < last; ++r) {
      for (std::int64_t j = 0; j < k; ++j) {
        if (code[r * k + j] < low || code[r * k + j] > high) return r;
      }
    }
    return last;
  });
  if (bad_code != n) {
    throw std::invalid_argument(codes.name + ": row " + std::to_string(bad_code) +
                                " holds a code out of range, wanted " + std::to_string(low) +
                                " to " + std::to_string(high));
  }
  const int bad_scale = first_row(pool, n, [&](int first, int last) {
    for (int r = first; r < last; ++r) {
      for (std::int64_t g = 0; g < groups; ++g) {
        const float s = scale[r * groups + g];
        if (!std::isfinite(s)) return r;
        if (s != 0.0F) continue;
        for (std::int64_t j = g * k / groups; j < (g + 1) * k / groups; ++j) {
          if (code[r * k + j] != 0) return r;
        }
      }
    }
    return last;
  });
  if (bad_scale != n) {
    throw std::invalid_argument(scales.name + ": row " + std::to_string(bad_scale) +
                                " holds a scale that is NaN, infinite, or zero for codes that are "
                                "not, wanted finite scales");
  }
}

void quantize(const std::string& format, const Tensor& weights, const Tensor& codes,
              const Tensor& scales, int threads) {
  const Kernels& table = quantized(format);
  const Shape shape = shape_of(table, codes, scales);
  weights.want({DType::bfloat16, DType::float32}, codes.shape);
  codes.want({DType::int8}, codes.shape);
  Pool::Use pool(threads);
  want_finite(pool, table, weights);
  const Pieces to(shape, codes, scales);
  const Rows rows = weights.rows(0, shape.n, shape.k);
  by_pieces(pool, table, shape, [&](int first, const Shape& piece, std::byte* packed) {
    table.pack(rows.from(first), 0, piece.n, piece, packed);
    table.unpack_codes({piece, packed}, to.codes_of(first), to.scales_of(first));
  });
}

void dequantize(const std::string& format, const Tensor& codes, const Tensor& scales,
                const Tensor& weights, int threads) {
  const Kernels& table = quantized(format);
  const Shape shape = shape_of(table, codes, scales);
  weights.want({DType::float32}, codes.shape);
  codes.want({DType::int8}, codes.shape);
  Pool::Use pool(threads);
  want_codes(pool, table, codes, scales);
  const Pieces from(shape, codes, scales);
  auto* const out = reinterpret_cast<float*>(weights.data);
  by_pieces(pool, table, shape, [&](int first, const Shape& piece, std::byte* packed) {
    table.pack_codes({from.codes_of(first), from.columns, from.scales_of(first), from.groups}, 0,
                     piece.n, piece, packed);
    table.unpack({piece, packed}, out + first * from.columns);
  });
}

}  // namespace kt
