// Gradients of the six LoRA tensors: products summed over an expert's tokens, of a low-rank factor
// (rank columns) and a wide matrix of activations (hidden or inter columns).
#include <cstring>

#include "walk.h"

namespace kt {
namespace {

constexpr bool along_hidden(Lora which) {
  return which == Lora::gate_a || which == Lora::up_a || which == Lora::down_b;
}
constexpr bool is_a(Lora which) {  // [rank][columns]; the others are [columns][rank]
  return which == Lora::gate_a || which == Lora::up_a || which == Lora::down_a;
}

// Columns [from, to) of one tensor's gradient for one expert and part; none: the expert has no
// tokens, and its gradient is zero.
struct Piece {
  int expert;
  int part;
  Lora which;
  int from;
  int to;
};

std::vector<Piece> cut(const Routing& routing, const Config& config, int part_inter, bool add) {
  std::vector<Piece> pieces;
  for (int e = 0; e < config.experts; ++e) {
    const auto at = static_cast<std::size_t>(e);
    const bool used = routing.offset[at] != routing.offset[at + 1];
    for (int i = 0; i < kLoraTensors; ++i) {
      const auto which = static_cast<Lora>(i);
      if (!used) {
        if (!add) pieces.push_back({e, 0, which, 0, 0});
        continue;
      }
      const int cols = along_hidden(which) ? config.hidden : part_inter;
      for (int part = 0; part < (along_hidden(which) ? 1 : config.parts); ++part) {
        for (int from = 0; from < cols; from += kMaxCols) {
          pieces.push_back({e, part, which, from, min(cols, from + kMaxCols)});
        }
      }
    }
  }
  return pieces;
}

// Where lines of a gradient go: line i at element first + i * stride of the tensor.
struct Target {
  const Tensor& tensor;
  std::int64_t first;
  std::int64_t stride;
  bool add;
};

// `lines` of `length` from c, each padded to kLanes.
void store(const Kernels& kernels, float* c, int lines, int length, const Target& target) {
  const auto size = static_cast<std::int64_t>(size_of(target.tensor.dtype));
  const int ldc = round_up(length, kLanes);
  if (length == ldc && length == target.stride) {  // they lie as one
    length *= lines;
    lines = 1;
  }
  for (int i = 0; i < lines; ++i) {
    float* const line = c + static_cast<std::int64_t>(i) * ldc;
    std::byte* const to = target.tensor.data + (target.first + i * target.stride) * size;
    if (target.add) {
      const auto* const before = reinterpret_cast<const float*>(to);
      for (int j = 0; j < length; ++j) line[j] += before[j];
    }
    kernels.sum_parts(line, 1, 0, length, target.tensor.dtype, to);
  }
}

}  // namespace

void BackwardWalk::lora_grads(const SavedChunk& saved, const Buffers& b, const GradSink& grads) {
  const Routing& routing = *saved.routing;
  const int rank = config.rank;
  const std::vector<Piece> pieces = cut(routing, config, layer.part_inter(), grads.add);

  // Of each tensor: the low-rank factor, whether it is yet to be weighted by r, and the wide one
  // ([tokens][hidden] if along hidden, else [rows][inter]).
  struct Factors {
    const float* low;
    bool weighted;
    const act_t* wide;
  };
  const Factors factors[kLoraTensors] = {
      {b.mid[0], false, saved.x}, {saved.mid[0], false, b.dgate},  // gate a, b
      {b.mid[1], false, saved.x}, {saved.mid[1], false, b.dup},    // up
      {b.mid[2], true, b.h},      {saved.mid[2], true, b.dout},    // down
  };

  pool.run(1, static_cast<int>(pieces.size()), [&](int /*part*/, int task, Scratch& s) {
    const Piece& p = pieces[static_cast<std::size_t>(task)];
    const Factors& f = factors[static_cast<std::size_t>(p.which)];
    const Tensor& out = grads.tensors[static_cast<std::size_t>(p.which)];
    const std::int64_t size = out.shape[1] * out.shape[2];
    if (p.to == 0) {
      const auto bytes = size * static_cast<std::int64_t>(size_of(out.dtype));
      std::memset(out.data + p.expert * bytes, 0, static_cast<std::size_t>(bytes));
      return;
    }
    const int first = routing.offset[static_cast<std::size_t>(p.expert)];
    const int rows = routing.offset[static_cast<std::size_t>(p.expert) + 1] - first;
    const Rows low = dense(f.low, layer.rank16(), first);
    const float* const weight = f.weighted ? routing.weight.data() + first : nullptr;
    const Rows wide = along_hidden(p.which) ? gathered(f.wide, routing, first)
                                            : dense(f.wide + std::int64_t{p.part} * part_width(),
                                                    layer.width(), first);
    const int cols = p.to - p.from;
    const bool a = is_a(p.which);
    kernels.outer(low, weight, rank, wide, p.from, p.to, rows, !a, s.c[0], s);
    const std::int64_t column = std::int64_t{p.part} * layer.part_inter() + p.from;
    store(
        kernels, s.c[0], a ? rank : cols, a ? cols : rank,
        {out, p.expert * size + (a ? column : column * rank), a ? out.shape[2] : rank, grads.add});
  });
}

}  // namespace kt
