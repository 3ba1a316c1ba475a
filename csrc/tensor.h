// A dense, C-contiguous array in the caller's memory, and the checks of what came against what was
// wanted. Messages begin with the argument's name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "types.h"

namespace kt {

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::boolean:
    case DType::int8:
      return 1;
    case DType::bfloat16:
    case DType::float16:
      return 2;
    case DType::float32:
    case DType::int32:
      return 4;
    case DType::int64:
      return 8;
  }
  return 0;
}

inline const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::bfloat16:
      return "bfloat16";
    case DType::float32:
      return "float32";
    case DType::float16:
      return "float16";
    case DType::int64:
      return "int64";
    case DType::int32:
      return "int32";
    case DType::int8:
      return "int8";
    case DType::boolean:
      return "bool";
  }
  return "?";
}

inline std::string text(const std::vector<std::int64_t>& shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i)
    s += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

struct Tensor {
  std::string name;
  std::byte* data = nullptr;
  DType dtype = DType::float32;
  std::vector<std::int64_t> shape;

  void want(std::initializer_list<DType> dtypes, const std::vector<std::int64_t>& wanted) const {
    bool fits = false;
    std::string names;
    for (const DType d : dtypes) {
      fits = fits || d == dtype;
      names += (names.empty() ? "" : " or ") + std::string(name_of(d));
    }
    if (!fits) {
      throw std::invalid_argument(name + ": dtype " + name_of(dtype) + ", wanted " + names);
    }
    if (shape != wanted) {
      throw std::invalid_argument(name + ": shape " + text(shape) + ", wanted " + text(wanted));
    }
    std::int64_t count = 1;
    for (const std::int64_t n : shape) count *= n;
    if (data == nullptr && count > 0) throw std::invalid_argument(name + ": no memory behind it");
  }

  // Row-major view of the last two dimensions of entry `first` of the leading one.
  [[nodiscard]] Rows rows(std::int64_t first, std::int64_t row_count, std::int64_t columns) const {
    const auto size = static_cast<std::int64_t>(size_of(dtype));
    Rows r;
    r.base = data + first * row_count * columns * size;
    r.stride = columns * size;
    r.dtype = dtype;
    return r;
  }
};

}  // namespace kt
