// The layer: packed expert weights, the caller's LoRA matrices, and the state that a forward pass
// leaves for its backward pass.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "routing.h"
#include "runtime/memory.h"
#include "runtime/threads.h"
#include "tensor.h"

namespace kt {

struct Config {
  int experts = 0;
  int hidden = 0;
  int inter = 0;
  int top_k = 0;
  std::string format;
  int group = 0;  // columns per scale, for the formats that have groups
  int rank = 0;   // of LoRA; 0: none
  float scaling = 1.0F;
  int parts = 1;    // tensor parallelism along inter
  int threads = 0;  // 0: all cores of the process
  int cache_depth = 1;
  int chunk_tokens = 1;
  std::string folder;  // of a file for the packed weights; empty: memory
};

enum class Base : std::uint8_t { gate, up, down };
enum class Lora : std::uint8_t { gate_a, gate_b, up_a, up_b, down_a, down_b };
constexpr int kLoraTensors = 6;

// What backward needs of one chunk, in bf16 but for mid. G, U: [rows][Layer::width()]; x:
// [tokens][hidden]; mid: the low-rank products s X A' of gate, up and down, [rows][rank16], in
// fp32, for rounded they would be the largest error of the LoRA gradients. Per routed row 4 inter +
// 12 rank bytes, per token 2 hidden.
struct SavedChunk {
  std::unique_ptr<Routing> routing;
  int tokens = 0;
  act_t* x = nullptr;
  act_t* gate = nullptr;
  act_t* up = nullptr;
  std::array<float*, 3> mid{};
  Arena memory;
};

struct Slot {
  std::int64_t ticket = 0;  // 0: free
  std::int64_t tokens = 0;
  std::size_t used = 0;  // chunks in use; the others only keep their memory
  std::vector<SavedChunk> chunks;
};

class Layer {
 public:
  explicit Layer(const Config& config);  // throws std::invalid_argument, std::bad_alloc

  // Throws std::invalid_argument, before anything is written, for what does not fit and for weights
  // that a quantized format can't round; check_expert does only that.
  void load_expert(int expert, const Tensor& gate, const Tensor& up, const Tensor& down);
  void check_expert(int expert, const Tensor& gate, const Tensor& up, const Tensor& down) const;
  // As they are: int8 codes, and float32 scales [n] or [n][k / group].
  void load_codes(int expert, const std::vector<Tensor>& codes, const std::vector<Tensor>& scales);
  void check_codes(int expert, const std::vector<Tensor>& codes,
                   const std::vector<Tensor>& scales) const;
  // The layer reads the tensors' memory in every pass from now on.
  void set_lora(std::vector<Tensor> tensors);

  // The ticket of a forward to come. Who has it before the call can release what the call saves,
  // even where an interrupt takes the call's result away.
  std::int64_t next_ticket() { return next_ticket_++; }
  // Returns the ticket of the saved state, which is the given one unless that is 0; 0 if not saved.
  std::int64_t forward(const Tensor& x, const Tensor& ids, const Tensor& weights, const Tensor& out,
                       bool save, const Tensor* skip, std::int64_t ticket = 0);
  // ticket 0: the newest. The slot is free afterwards.
  void backward(std::int64_t ticket, const Tensor& grad_out, const Tensor& grad_x,
                const std::vector<Tensor>& grad_loras, const Tensor* grad_weights);

  [[nodiscard]] std::int64_t saved_tokens(std::int64_t ticket) const;
  void release(std::int64_t ticket);  // 0: all
  [[nodiscard]] int cache_used() const;
  [[nodiscard]] std::string ran() const;
  [[nodiscard]] std::size_t weight_bytes() const;
  [[nodiscard]] std::size_t saved_bytes() const;
  [[nodiscard]] bool loaded() const;

 private:
  friend class Walk;
  friend class ForwardWalk;
  friend class BackwardWalk;

  [[nodiscard]] int part_inter() const { return config_.inter / config_.parts; }
  // Elements per row of G, U and H: each part's columns are padded to whole vectors.
  [[nodiscard]] int width() const { return config_.parts * round_up(part_inter(), kLanes); }
  [[nodiscard]] int rank16() const { return round_up(config_.rank, kLanes); }

  [[nodiscard]] Shape shape(Base which) const;  // of one part of a matrix
  [[nodiscard]] std::size_t stored_bytes(Base which) const;
  [[nodiscard]] std::byte* packed(int part, int expert, Base which) const;
  // Allocates the weights' memory, and packs an expert: body(part, which, first row, last row,
  // packed).
  template <class Body>
  void pack_expert(Pool::Use& pool, int expert, Body body);
  [[nodiscard]] Packed base(int part, int expert, Base which) const;
  // The slice of an expert's LoRA matrix that belongs to a part (of gate_a, up_a, down_b: all).
  [[nodiscard]] RowMajor lora(int part, int expert, Lora which) const;

  [[nodiscard]] int first_missing() const;  // expert without weights; experts: none
  Slot& take_slot();
  [[nodiscard]] const Slot* find(std::int64_t ticket) const;

  Config config_;
  const Kernels& kernels_;
  std::vector<Memory> weights_;  // per part: experts x (gate, up, down)
  std::vector<bool> loaded_;
  std::vector<Tensor> lora_;
  std::vector<Slot> slots_;
  std::atomic<std::int64_t> next_ticket_ = 1;
  const char* ran_ = "";
};

}  // namespace kt
