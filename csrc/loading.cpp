// Weights into the layer: rounded and packed expert by expert, each in parallel, so that loading
// never holds more than one expert beside the result.
#include <stdexcept>

#include "layer.h"
#include "weights.h"

namespace kt {
namespace {

constexpr int kRows = 256;  // of a matrix per task

void want_expert(int expert, const Config& config) {
  if (expert >= 0 && expert < config.experts) return;
  throw std::invalid_argument("expert is " + std::to_string(expert) + ", wanted 0 to " +
                              std::to_string(config.experts - 1));
}

}  // namespace

template <class Body>
void Layer::pack_expert(Pool::Use& pool, int expert, Body body) {
  if (weights_.empty()) {
    const std::size_t bytes = 2 * stored_bytes(Base::gate) + stored_bytes(Base::down);
    std::vector<Memory> memory;
    memory.reserve(static_cast<std::size_t>(config_.parts));
    for (int part = 0; part < config_.parts; ++part) {
      const std::size_t all = static_cast<std::size_t>(config_.experts) * bytes;
      memory.push_back(config_.folder.empty() ? Memory(all) : Memory(all, config_.folder));
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

void Layer::check_expert(int expert, const Tensor& gate, const Tensor& up,
                         const Tensor& down) const {
  want_expert(expert, config_);
  const auto dtypes = {DType::bfloat16, DType::float32};
  gate.want(dtypes, {config_.inter, config_.hidden});
  up.want(dtypes, {config_.inter, config_.hidden});
  down.want(dtypes, {config_.hidden, config_.inter});
  if (kernels_.integers == nullptr) return;
  Pool::Use pool(config_.threads, config_.parts);
  for (const Tensor* const source : {&gate, &up, &down}) want_finite(pool, kernels_, *source);
}

void Layer::load_expert(int expert, const Tensor& gate, const Tensor& up, const Tensor& down) {
  check_expert(expert, gate, up, down);
  Pool::Use pool(config_.threads, config_.parts);
  const Tensor* const sources[3] = {&gate, &up, &down};
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

void Layer::check_codes(int expert, const std::vector<Tensor>& codes,
                        const std::vector<Tensor>& scales) const {
  want_expert(expert, config_);
  if (kernels_.integers == nullptr) {
    throw std::invalid_argument(std::string("format ") + kernels_.format + " has no codes");
  }
  if (codes.size() != 3 || scales.size() != 3) {
    throw std::invalid_argument("wanted codes and scales of gate, up and down");
  }
  const std::int64_t inter = config_.inter;
  const std::int64_t hidden = config_.hidden;
  const std::vector<std::int64_t> shapes[3] = {{inter, hidden}, {inter, hidden}, {hidden, inter}};
  for (std::size_t i = 0; i < 3; ++i) {
    codes[i].want({DType::int8}, shapes[i]);
    std::vector<std::int64_t> wanted = {shapes[i][0]};
    if (kernels_.integers->grouped) wanted.push_back(shapes[i][1] / config_.group);
    scales[i].want({DType::float32}, wanted);
  }
  Pool::Use pool(config_.threads, config_.parts);
  for (std::size_t i = 0; i < 3; ++i) want_codes(pool, kernels_, codes[i], scales[i]);
}

void Layer::load_codes(int expert, const std::vector<Tensor>& codes,
                       const std::vector<Tensor>& scales) {
  check_codes(expert, codes, scales);
  const bool grouped = kernels_.integers->grouped;
  Pool::Use pool(config_.threads, config_.parts);
  pack_expert(pool, expert, [&](int part, Base which, int first, int last, std::byte* to) {
    const auto i = static_cast<std::size_t>(which);
    const std::int64_t columns = codes[i].shape[1];
    Codes source{reinterpret_cast<const std::int8_t*>(codes[i].data), columns,
                 reinterpret_cast<const float*>(scales[i].data),
                 grouped ? columns / config_.group : 1};
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
