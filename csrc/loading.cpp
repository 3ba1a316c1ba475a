// Weights into the layer: rounded and packed expert by expert, each in parallel, so that loading
// never holds more than one expert beside the result.
#include <atomic>
#include <cmath>
#include <stdexcept>

#include "layer.h"

namespace kt {
namespace {

constexpr int kRows = 256;  // of a matrix per task

void want_expert(int expert, const Config& config) {
  if (expert >= 0 && expert < config.experts) return;
  throw std::invalid_argument("expert is " + std::to_string(expert) + ", wanted 0 to " +
                              std::to_string(config.experts - 1));
}

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

// Codes within the format's range, and scales that are finite and, where codes are not all zero,
// not zero.
void want_codes(Pool::Use& pool, const Kernels& kernels, const Tensor& codes,
                const Tensor& scales) {
  const auto n = static_cast<int>(codes.shape[0]);
  const auto k = static_cast<std::int64_t>(codes.shape[1]);
  const std::int64_t groups = scales.shape.size() == 2 ? scales.shape[1] : 1;
  const auto* const code = reinterpret_cast<const std::int8_t*>(codes.data);
  const auto* const scale = reinterpret_cast<const float*>(scales.data);
  const int low = kernels.integers->low;
  const int high = kernels.integers->high;
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

}  // namespace

template <class Body>
void Layer::pack_expert(Pool::Use& pool, int expert, Body body) {
  if (weights_.empty()) {
    const std::size_t bytes = 2 * stored_bytes(Base::gate) + stored_bytes(Base::down);
    std::vector<Memory> memory;
    memory.reserve(static_cast<std::size_t>(config_.parts));
    for (int part = 0; part < config_.parts; ++part) {
      memory.emplace_back(static_cast<std::size_t>(config_.experts) * bytes);
    }
    weights_ = std::move(memory);
  }
  const int gate_tasks = div_up(part_inter(), kRows);
  const int down_tasks = div_up(config_.hidden, kRows);
  pool.run(config_.parts, 2 * gate_tasks + down_tasks, [&](int part, int task, Scratch&) {
    const Base which = task < gate_tasks       ? Base::gate
                       : task < 2 * gate_tasks ? Base::up
                                               : Base::down;
    const int first = (task - static_cast<int>(which) * gate_tasks) * kRows;
    body(part, which, first, min(shape(which).n, first + kRows), packed(part, expert, which));
  });
  loaded_[static_cast<std::size_t>(expert)] = true;
}

void Layer::load_expert(int expert, const Tensor& gate, const Tensor& up, const Tensor& down) {
  want_expert(expert, config_);
  const auto dtypes = {DType::bfloat16, DType::float32};
  gate.want(dtypes, {config_.inter, config_.hidden});
  up.want(dtypes, {config_.inter, config_.hidden});
  down.want(dtypes, {config_.hidden, config_.inter});
  Pool::Use pool(config_.threads);
  const Tensor* const sources[3] = {&gate, &up, &down};
  if (kernels_.integers != nullptr) {
    for (const Tensor* const source : sources) want_finite(pool, kernels_, *source);
  }
  pack_expert(pool, expert, [&](int part, Base which, int first, int last, std::byte* to) {
    const Tensor& source = *sources[static_cast<std::size_t>(which)];
    Rows rows = source.rows(0, source.shape[0], source.shape[1]);
    if (which == Base::down) {  // the part's columns
      rows.base +=
          std::int64_t{part} * part_inter() * static_cast<std::int64_t>(size_of(source.dtype));
    } else {  // the part's rows
      rows = rows.from(std::int64_t{part} * part_inter());
    }
    kernels_.pack(rows, first, last, shape(which), to);
  });
}

void Layer::load_codes(int expert, const std::vector<Tensor>& codes,
                       const std::vector<Tensor>& scales) {
  want_expert(expert, config_);
  if (kernels_.integers == nullptr) {
    throw std::invalid_argument(std::string("format ") + kernels_.format + " has no codes");
  }
  if (codes.size() != 3 || scales.size() != 3) {
    throw std::invalid_argument("wanted codes and scales of gate, up and down");
  }
  const bool grouped = kernels_.integers->grouped;
  const std::int64_t inter = config_.inter;
  const std::int64_t hidden = config_.hidden;
  const std::vector<std::int64_t> shapes[3] = {{inter, hidden}, {inter, hidden}, {hidden, inter}};
  for (std::size_t i = 0; i < 3; ++i) {
    codes[i].want({DType::int8}, shapes[i]);
    std::vector<std::int64_t> wanted = {shapes[i][0]};
    if (grouped) wanted.push_back(shapes[i][1] / config_.group);
    scales[i].want({DType::float32}, wanted);
  }
  Pool::Use pool(config_.threads);
  for (std::size_t i = 0; i < 3; ++i) want_codes(pool, kernels_, codes[i], scales[i]);
  pack_expert(pool, expert, [&](int part, Base which, int first, int last, std::byte* to) {
    const auto i = static_cast<std::size_t>(which);
    Codes source{reinterpret_cast<const std::int8_t*>(codes[i].data), shapes[i][1],
                 reinterpret_cast<const float*>(scales[i].data),
                 grouped ? shapes[i][1] / config_.group : 1};
    const std::int64_t offset = std::int64_t{part} * part_inter();
    if (which == Base::down) {
      source.codes += offset;
      if (grouped) source.scales += offset / config_.group;
    } else {
      source.codes += offset * source.stride;
      source.scales += offset * source.scale_stride;
    }
    kernels_.pack_codes(source, first, last, shape(which), to);
  });
}

}  // namespace kt
