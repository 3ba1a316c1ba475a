#include "routing.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace kt {
namespace {

template <class T>
T element(const Tensor& t, std::int64_t i) {
  T value;
  std::memcpy(&value, t.data + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

std::int64_t id_at(const Tensor& ids, std::int64_t i) {
  return ids.dtype == DType::int64 ? element<std::int64_t>(ids, i) : element<std::int32_t>(ids, i);
}

float weight_at(const Tensor& weights, std::int64_t i) {
  if (weights.dtype == DType::float32) return element<float>(weights, i);
  return std::bit_cast<float>(static_cast<std::uint32_t>(element<std::uint16_t>(weights, i)) << 16);
}

bool skipped(const Tensor* skip, std::int64_t id) {
  return id < 0 || (skip != nullptr && element<std::uint8_t>(*skip, id) != 0);
}

std::string place_text(std::int64_t i, std::int64_t k) {
  return "[" + std::to_string(i / k) + ", " + std::to_string(i % k) + "]";
}

}  // namespace

void check_routing(const Tensor& ids, const Tensor& weights, const Tensor* skip, int experts) {
  const std::int64_t k = ids.shape[1];
  for (std::int64_t i = 0; i < ids.shape[0] * k; ++i) {
    const std::int64_t id = id_at(ids, i);
    if (id < -1 || id >= experts) {
      throw std::invalid_argument(ids.name + place_text(i, k) + " is " + std::to_string(id) +
                                  ", wanted -1 (skip) or 0 to " + std::to_string(experts - 1));
    }
    if (!skipped(skip, id) && !std::isfinite(weight_at(weights, i))) {
      throw std::invalid_argument(weights.name + place_text(i, k) + " is " +
                                  std::to_string(weight_at(weights, i)) +
                                  ", wanted finite numbers");
    }
  }
}

Routing::Routing(const Tensor& ids, const Tensor& weights, const Tensor* skip, int experts,
                 std::int64_t first, int tokens)
    : offset(static_cast<std::size_t>(experts) + 1, 0) {
  const std::int64_t k = ids.shape[1];
  const std::int64_t begin = first * k;
  const auto count = static_cast<std::size_t>(tokens * k);
  // Each id is read once: the caller's other threads may write to them, and rows that were counted
  // by one value and filled by another would lie outside of what they get.
  std::vector<std::int32_t> chosen(count, -1);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t id = id_at(ids, begin + static_cast<std::int64_t>(i));
    if (id >= experts || skipped(skip, id)) continue;
    chosen[i] = static_cast<std::int32_t>(id);
    ++offset[static_cast<std::size_t>(id) + 1];
  }
  for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) offset[e + 1] += offset[e];
  const auto rows = static_cast<std::size_t>(offset.back());
  token.resize(rows);
  place.resize(rows);
  weight.resize(rows);
  std::vector<int> next(offset.begin(), offset.end() - 1);
  for (std::size_t i = 0; i < count; ++i) {
    if (chosen[i] < 0) continue;
    const auto row = static_cast<std::size_t>(next[static_cast<std::size_t>(chosen[i])]++);
    const auto at = static_cast<std::int64_t>(i);
    token[row] = static_cast<std::int32_t>(at / k);
    place[row] = static_cast<std::int32_t>(at);
    weight[row] = weight_at(weights, begin + at);
  }
  for (int e = 0; e < experts; ++e) {
    const int from = offset[static_cast<std::size_t>(e)];
    const int n = offset[static_cast<std::size_t>(e) + 1] - from;
    const int pieces = div_up(n, kMaxRows);
    for (int p = 0, done = 0; p < pieces; ++p) {
      const int size = n / pieces + (p < n % pieces ? 1 : 0);
      blocks.push_back({e, from + done, size});
      done += size;
    }
  }
}

}  // namespace kt
