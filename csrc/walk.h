// What the forward and the backward walk share: views of the layer's buffers, and how work is cut.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <type_traits>

#include "layer.h"

namespace kt {

// Rows of each part, [parts][rows].
struct PartRows {
  Rows rows;
  std::int64_t part_stride = 0;  // bytes

  // From a row of a part on.
  [[nodiscard]] Rows at(int part, int first) const {
    Rows r = rows;
    r.base += part * part_stride;
    return r.from(first);
  }
};

// What a phase's products multiply: activations as they lie, or rounded.
struct Operand {
  PartRows source;
  PartRows rounded;
  int rounded_rows = 0;  // blocks of more take the source

  [[nodiscard]] Rows of(int part, const Block& block) const {
    return (block.rows <= rounded_rows ? rounded : source).at(part, block.first);
  }
};

class Walk {
 public:
  Walk(Layer& of, Pool::Use& with)
      : layer(of), config(of.config_), kernels(of.kernels_), pool(with) {}

 protected:
  // Columns per task: as many as the buffers hold, fewer where that leaves threads without work;
  // a multiple of `unit`, as `most` is.
  [[nodiscard]] int task_cols(int cols, int others, int most = kMaxCols, int unit = kLanes) const {
    int width = most;
    while (width % (2 * unit) == 0 &&
           others * div_up(cols, width) < kTasksPerThread * pool.threads()) {
      width /= 2;
    }
    return width;
  }

  // Rows of a dense matrix of activations, or of low-rank factors in fp32.
  template <class T>
  static Rows dense(const T* data, std::int64_t stride, std::int64_t first = 0) {
    Rows r;
    r.base = reinterpret_cast<const std::byte*>(data + first * stride);
    r.stride = stride * static_cast<std::int64_t>(sizeof(T));
    r.dtype = std::is_same_v<T, float> ? DType::float32 : DType::bfloat16;
    return r;
  }
  // The rows of [tokens][hidden] that a block's tokens have.
  Rows gathered(const act_t* data, const Routing& routing, int first) const {
    Rows r = dense(data, config.hidden);
    r.index = routing.token.data() + first;
    return r;
  }

  // The bytes of that many rows of activations rounded for products along `axis` with weights of a
  // shape; none where the format takes them as they lie.
  [[nodiscard]] std::size_t rounded_size(Axis axis, const Shape& shape, int granule,
                                         std::size_t rows) const {
    auto* const bytes = kernels.rounded_bytes[static_cast<int>(axis)];
    return bytes == nullptr ? 0 : rows * static_cast<std::size_t>(bytes(shape, granule));
  }
  // The source's rows for the products of these blocks of each part: rounded, where the kernels
  // want them so, once for all tasks of the next phase (a task has some columns of the result only,
  // and would round all that it multiplies). `rows_of_source`: all of them, as blocks.
  // weights(part, expert): what they are to be multiplied with.
  template <class Weights>
  Operand rounded(Axis axis, const PartRows& source, int parts, std::span<const Block> blocks,
                  std::span<const Block> rows_of_source, Weights weights, std::byte* out) {
    Operand result{source, source, 0};
    auto* const round = kernels.round[static_cast<int>(axis)];
    if (round == nullptr || rows_of_source.empty()) return result;
    const Shape shape = weights(0, rows_of_source.front().expert);
    const int most = kernels.rounded_rows[static_cast<int>(axis)](shape);
    if (std::none_of(blocks.begin(), blocks.end(),
                     [&](const Block& block) { return block.rows <= most; })) {
      return result;
    }
    result.rounded_rows = most;
    const std::int64_t bytes =
        kernels.rounded_bytes[static_cast<int>(axis)](shape, source.rows.granule);
    Rows& rows = result.rounded.rows;
    rows = Rows{};
    rows.base = out;
    rows.stride = bytes;
    rows.dtype = DType::int8;
    rows.granule = source.rows.granule;
    std::int64_t& part_stride = result.rounded.part_stride;
    part_stride =
        parts > 1 ? (rows_of_source.back().first + rows_of_source.back().rows) * bytes : 0;
    constexpr int kPiece = 16;  // rows: tens of microseconds of work
    int pieces = 0;             // of the largest block
    for (const Block& block : rows_of_source) pieces = max(pieces, div_up(block.rows, kPiece));
    pool.run(parts, pieces * static_cast<int>(rows_of_source.size()),
             [&](int part, int task, Scratch&) {
               const Block& block = rows_of_source[static_cast<std::size_t>(task / pieces)];
               const int from = task % pieces * kPiece;
               const int first = block.first + from;
               const int count = min(kPiece, block.rows - from);
               if (count <= 0) return;
               round(source.at(part, first), count, weights(part, block.expert),
                     out + part * part_stride + first * bytes);
             });
    return result;
  }
  static void clear(float* c, int m, int ldc) {
    std::memset(c, 0, sizeof(float) * static_cast<std::size_t>(m) * static_cast<std::size_t>(ldc));
  }

  // A caller's rows as activations: as they lie if they are, else converted into `out`.
  const act_t* activations(const std::byte* data, DType dtype, std::int64_t count, act_t* out);
  // [parts][tokens][hidden16] summed over parts into the caller's [tokens][hidden].
  void finish(const float* sums, int tokens, DType dtype, std::byte* out);

  [[nodiscard]] const std::byte* chunk(const Tensor& t, std::int64_t first_token) const {
    return t.data + first_token * config.hidden * static_cast<std::int64_t>(size_of(t.dtype));
  }
  [[nodiscard]] int hidden16() const { return round_up(config.hidden, kLanes); }
  [[nodiscard]] int part_width() const { return round_up(layer.part_inter(), kLanes); }

  static constexpr int kTasksPerThread = 8;  // enough that the last task's end is 1/8 at most

  Layer& layer;
  const Config& config;
  const Kernels& kernels;
  Pool::Use& pool;
};

class ForwardWalk : Walk {
 public:
  using Walk::Walk;
  // Tokens [first, first + tokens); `saved` null: nothing is kept.
  void run(const Tensor& x, std::unique_ptr<Routing> routing, const Tensor& out, std::int64_t first,
           int tokens, SavedChunk* saved);

 private:
  struct Buffers {
    const act_t* x;
    act_t* x_copy;  // where x is not used as it lies
    act_t* gate;    // null where nothing is kept, as up
    act_t* up;
    act_t* h;
    std::array<float*, 3> mid;  // s X A' of gate and up, s H Ad'
    std::byte* rounded;
    float* sums;
  };
  Buffers buffers(const Tensor& x, const Routing& routing, int tokens, SavedChunk* saved);
  void gate_up_mid(const Routing& routing, const Buffers& b);
  void gate_up(const Routing& routing, const Buffers& b, int tokens);
  void down_mid(const Routing& routing, const Buffers& b);
  void down(const Routing& routing, const Buffers& b, int tokens);
  [[nodiscard]] PartRows h_rows(const Buffers& b) const;
};

// Where the LoRA gradients go.
struct GradSink {
  std::vector<Tensor> tensors;
  bool add = false;  // to what is there (float32), instead of overwriting it
};

class BackwardWalk : Walk {
 public:
  using Walk::Walk;
  void run(const SavedChunk& saved, const Tensor& grad_out, const Tensor& grad_x,
           const GradSink& grads, const Tensor* grad_weights, std::int64_t first);

 private:
  struct Buffers {
    const act_t* dout;
    act_t* out_copy;  // where it is not used as it came
    act_t* dgate;
    act_t* dup;
    act_t* h;
    std::array<float*, 3> mid;          // s dG Bg, s dU Bu, s dOut Bd
    std::array<std::byte*, 2> rounded;  // dG and dU; before them dOut, from the first on
    float* dr;
    float* sums;
    float* products;  // of few rows, for dX; else null
  };
  Buffers buffers(const SavedChunk& saved, const Tensor& grad_out);
  void down_mid(const SavedChunk& saved, const Buffers& b);
  void activation(const SavedChunk& saved, const Buffers& b);
  void gate_up_mid(const SavedChunk& saved, const Buffers& b);
  void input(const SavedChunk& saved, const Buffers& b);
  void input_product(const Block& block, int part, const Operand (&d)[2], const Buffers& b,
                     int from, int to, float* c, int ldc, Scratch& s);
  [[nodiscard]] int product_cols(int rows) const;
  void lora_grads(const SavedChunk& saved, const Buffers& b, const GradSink& grads);
  void routing_grads(const SavedChunk& saved, const Buffers& b, const Tensor& grad_weights,
                     std::int64_t first);
  [[nodiscard]] int dr_blocks() const {
    return config.parts * div_up(part_width(), kActivationCols);
  }
};

}  // namespace kt
