#include "layer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "dispatch.h"
#include "walk.h"

namespace kt {
namespace {

void want_range(const char* name, int value, int least, int most) {
  if (value >= least && value <= most) return;
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ", wanted " +
                              std::to_string(least) + " to " + std::to_string(most));
}

void want_groups(const char* name, int columns, int group) {
  if (columns % group == 0) return;
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(columns) +
                              ", wanted a multiple of group_size " + std::to_string(group));
}

}  // namespace

Layer::Layer(const Config& config) : config_(config), kernels_(kernels("", config.format)) {
  constexpr int kMost = 1 << 24;
  want_range("num_experts", config.experts, 1, kMost);
  want_range("hidden_size", config.hidden, 1, kMost);
  want_range("intermediate_size", config.inter, 1, kMost);
  want_range("top_k", config.top_k, 1, kMost);
  want_range("lora_rank", config.rank, 0, kMaxCols);
  want_range("parts", config.parts, 1, config.inter);
  want_range("threads", config.threads, 0, 4096);
  want_range("cache_depth", config.cache_depth, 0, kMost);
  // Rows are counted in int, and buffers hold at least a few vectors of each.
  want_range("chunk_tokens", config.chunk_tokens, 1, std::numeric_limits<int>::max());
  config_.chunk_tokens = min(config.chunk_tokens, (1 << 30) / max(config.top_k, 1));
  if (config.inter % config.parts != 0) {
    throw std::invalid_argument("parts is " + std::to_string(config.parts) +
                                ", wanted a divisor of intermediate_size " +
                                std::to_string(config.inter));
  }
  if (kernels_.integers != nullptr && kernels_.integers->grouped) {
    if (config.group != 32 && config.group != 64 && config.group != 128) {
      throw std::invalid_argument("group_size is " + std::to_string(config.group) +
                                  ", wanted 32, 64 or 128");
    }
    want_groups("hidden_size", config.hidden, config.group);
    want_groups("intermediate_size / parts", part_inter(), config.group);
  }
  loaded_.resize(static_cast<std::size_t>(config.experts), false);
  slots_.resize(static_cast<std::size_t>(config.cache_depth));
}

Shape Layer::shape(Base which) const {
  if (which == Base::down) return {config_.hidden, part_inter(), config_.group};
  return {part_inter(), config_.hidden, config_.group};
}

std::size_t Layer::stored_bytes(Base which) const {
  constexpr std::size_t kLine = 64;  // vectors that cross lines take two loads
  return (kernels_.packed_bytes(shape(which)) + kLine - 1) / kLine * kLine;
}

std::byte* Layer::packed(int part, int expert, Base which) const {
  const std::size_t gate = stored_bytes(Base::gate);
  return weights_[static_cast<std::size_t>(part)].data() +
         static_cast<std::size_t>(expert) * (2 * gate + stored_bytes(Base::down)) +
         static_cast<std::size_t>(which) * gate;
}

Packed Layer::base(int part, int expert, Base which) const {
  return {shape(which), packed(part, expert, which)};
}

RowMajor Layer::lora(int part, int expert, Lora which) const {
  const Tensor& t = lora_[static_cast<std::size_t>(which)];
  RowMajor m;
  m.rows = t.rows(expert, t.shape[1], t.shape[2]);
  m.n = static_cast<int>(t.shape[1]);
  m.k = static_cast<int>(t.shape[2]);
  if (which == Lora::gate_b || which == Lora::up_b) {  // the part's rows
    m.rows = m.rows.from(std::int64_t{part} * part_inter());
    m.n = part_inter();
  } else if (which == Lora::down_a) {  // the part's columns
    m.rows.base += std::int64_t{part} * part_inter() * static_cast<std::int64_t>(size_of(t.dtype));
    m.k = part_inter();
  }
  return m;
}

void Layer::set_lora(std::vector<Tensor> tensors) {
  if (config_.rank == 0) throw std::runtime_error("LoRA tensors for a layer of lora_rank 0");
  if (tensors.size() != kLoraTensors) {
    throw std::invalid_argument(std::to_string(tensors.size()) + " LoRA tensors, wanted 6");
  }
  const std::int64_t e = config_.experts;
  const std::int64_t r = config_.rank;
  const std::int64_t h = config_.hidden;
  const std::int64_t i = config_.inter;
  const std::vector<std::int64_t> shapes[kLoraTensors] = {{e, r, h}, {e, i, r}, {e, r, h},
                                                          {e, i, r}, {e, r, i}, {e, h, r}};
  for (std::size_t t = 0; t < kLoraTensors; ++t) {
    tensors[t].want({DType::bfloat16, DType::float32}, shapes[t]);
    if (tensors[t].dtype != tensors[0].dtype) {
      throw std::invalid_argument(tensors[t].name + ": dtype " + name_of(tensors[t].dtype) +
                                  ", wanted that of " + tensors[0].name + ", " +
                                  name_of(tensors[0].dtype));
    }
  }
  const Pool::Use pool(1);  // no pass is reading the old ones
  lora_ = std::move(tensors);
}

Slot& Layer::take_slot() {
  for (Slot& slot : slots_) {
    if (slot.ticket == 0) return slot;
  }
  throw std::runtime_error(
      "Forward cache full: all " + std::to_string(slots_.size()) +
      " slots (max_cache_depth) hold a forward_sft whose backward has not run; call backward "
      "first, "
      "pass save_for_backward=False where none follows, or raise max_cache_depth");
}

const Slot* Layer::find(std::int64_t ticket) const {
  const Slot* found = nullptr;
  for (const Slot& slot : slots_) {
    if (slot.ticket == 0) continue;
    if (ticket == 0 ? found == nullptr || slot.ticket > found->ticket : slot.ticket == ticket) {
      found = &slot;
    }
  }
  return found;
}

std::int64_t Layer::forward(const Tensor& x, const Tensor& ids, const Tensor& weights,
                            const Tensor& out, bool save, const Tensor* skip, std::int64_t ticket) {
  if (x.shape.size() != 2)
    throw std::invalid_argument(x.name + ": shape " + text(x.shape) +
                                ", wanted [qlen, hidden_size]");
  const std::int64_t tokens = x.shape[0];
  x.want({DType::bfloat16, DType::float32, DType::float16}, {tokens, config_.hidden});
  ids.want({DType::int64, DType::int32}, {tokens, config_.top_k});
  weights.want({DType::float32, DType::bfloat16}, {tokens, config_.top_k});
  out.want({x.dtype}, {tokens, config_.hidden});
  if (skip != nullptr) skip->want({DType::boolean}, {config_.experts});
  check_routing(ids, weights, skip, config_.experts);

  Pool::Use pool(config_.threads, config_.parts);
  if (const int expert = first_missing(); expert < config_.experts) {
    throw std::runtime_error("weights are not loaded: expert " + std::to_string(expert) +
                             " is missing");
  }
  if (config_.rank > 0 && lora_.empty()) {
    throw std::runtime_error("LoRA tensors are not set: call init_lora_weights first");
  }
  if (ticket < 0 || (ticket > 0 && find(ticket) != nullptr)) {
    throw std::invalid_argument("ticket is " + std::to_string(ticket) +
                                ", wanted 0, or one of next_ticket that nothing was saved under");
  }
  Slot* const slot = save ? &take_slot() : nullptr;
  std::size_t used = 0;
  for (std::int64_t first = 0; first < tokens; first += config_.chunk_tokens, ++used) {
    const auto n = static_cast<int>(std::min<std::int64_t>(config_.chunk_tokens, tokens - first));
    auto routing = std::make_unique<Routing>(ids, weights, skip, config_.experts, first, n);
    if (slot != nullptr && slot->chunks.size() == used) slot->chunks.emplace_back();
    ForwardWalk(*this, pool)
        .run(x, std::move(routing), out, first, n, slot != nullptr ? &slot->chunks[used] : nullptr);
  }
  ran_ = pool.ran();
  if (slot == nullptr) return 0;
  slot->used = used;
  slot->tokens = tokens;
  slot->ticket = ticket > 0 ? ticket : next_ticket();
  return slot->ticket;
}

void Layer::backward(std::int64_t ticket, const Tensor& grad_out, const Tensor& grad_x,
                     const std::vector<Tensor>& grad_loras, const Tensor* grad_weights) {
  Pool::Use pool(config_.threads, config_.parts);
  const Slot* const slot = find(ticket);
  if (slot == nullptr) {
    throw std::runtime_error(
        "backward without a saved forward: call forward_sft(..., save_for_backward=True) first; "
        "each serves one backward");
  }
  const auto dtypes = {DType::bfloat16, DType::float32, DType::float16};
  grad_out.want(dtypes, {slot->tokens, config_.hidden});
  grad_x.want(dtypes, {slot->tokens, config_.hidden});
  if (grad_weights != nullptr) {
    grad_weights->want({DType::float32}, {slot->tokens, config_.top_k});
  }
  if (grad_loras.size() != (config_.rank > 0 ? kLoraTensors : 0)) {
    throw std::invalid_argument(std::to_string(grad_loras.size()) + " LoRA gradients, wanted " +
                                std::to_string(config_.rank > 0 ? kLoraTensors : 0));
  }
  for (std::size_t i = 0; i < grad_loras.size(); ++i) {
    grad_loras[i].want({DType::bfloat16, DType::float32}, lora_[i].shape);
  }

  // Chunks add to each other in fp32; one chunk, the usual case, writes straight to the result.
  GradSink grads{grad_loras, false};
  std::vector<Memory> sums;
  const bool summed = config_.rank > 0 && slot->used != 1;
  if (summed) {
    grads.add = true;
    for (Tensor& t : grads.tensors) {
      sums.emplace_back(sizeof(float) *
                        static_cast<std::size_t>(t.shape[0] * t.shape[1] * t.shape[2]));
      t.data = sums.back().data();
      t.dtype = DType::float32;
    }
  }
  std::int64_t first = 0;
  for (std::size_t i = 0; i < slot->used; ++i) {
    const SavedChunk& saved = slot->chunks[i];
    BackwardWalk(*this, pool).run(saved, grad_out, grad_x, grads, grad_weights, first);
    first += saved.tokens;
  }
  for (std::size_t i = 0; summed && i < grad_loras.size(); ++i) {
    const Tensor& to = grad_loras[i];
    kernels_.sum_parts(reinterpret_cast<const float*>(sums[i].data()), 1, 0,
                       to.shape[0] * to.shape[1] * to.shape[2], to.dtype, to.data);
  }
  if (slot->used > 0) ran_ = pool.ran();
  const_cast<Slot*>(slot)->ticket = 0;
}

std::int64_t Layer::saved_tokens(std::int64_t ticket) const {
  const Pool::Use pool(1);
  const Slot* const slot = find(ticket);
  if (slot == nullptr) throw std::runtime_error("no saved forward");
  return slot->tokens;
}

void Layer::release(std::int64_t ticket) {
  const Pool::Use pool(1);
  for (Slot& slot : slots_) {
    if (ticket == 0 || slot.ticket == ticket) slot.ticket = 0;
  }
}

int Layer::cache_used() const {
  const Pool::Use pool(1);
  return static_cast<int>(
      std::ranges::count_if(slots_, [](const Slot& s) { return s.ticket != 0; }));
}

std::string Layer::ran() const {
  const Pool::Use pool(1);
  return ran_;
}

std::size_t Layer::weight_bytes() const {
  const Pool::Use pool(1);
  std::size_t bytes = 0;
  for (const Memory& m : weights_) bytes += m.size();
  return bytes;
}

std::size_t Layer::saved_bytes() const {
  const Pool::Use pool(1);
  std::size_t bytes = 0;
  for (const Slot& slot : slots_) {
    for (const SavedChunk& chunk : slot.chunks) bytes += chunk.memory.size();
  }
  return bytes;
}

int Layer::first_missing() const {
  return static_cast<int>(std::ranges::find(loaded_, false) - loaded_.begin());
}

bool Layer::loaded() const {
  const Pool::Use pool(1);
  return first_missing() == config_.experts;
}

}  // namespace kt
