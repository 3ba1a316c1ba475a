// The backward walk: the forward's products in reverse, each along the other axis of the same
// packed weights.
//
//   dH' = dOut Wd + s (dOut Bd) Ad   dH = r dH'   dr = <dH', H>      dU, dG: ops/swiglu.h
//   dX += dG Wg + s (dG Bg) Ag + dU Wu + s (dU Bu) Au
//   dAg = s (dG Bg)' X     dBg = dG' (s X Ag')     up alike
//   dAd = (r s dOut Bd)' H     dBd = dOut' (r s H Ad')
//
// The routing weight r is applied to dH and to the low-rank factors, so dOut serves as it came.
#include <algorithm>

#include "walk.h"

namespace kt {

BackwardWalk::Buffers BackwardWalk::buffers(const SavedChunk& saved, const Tensor& grad_out) {
  const auto rows = static_cast<std::size_t>(saved.routing->rows());
  const auto width = static_cast<std::size_t>(layer.width());
  const auto rank16 = static_cast<std::size_t>(layer.rank16());
  const auto tokens = static_cast<std::size_t>(saved.tokens);
  const auto parts = static_cast<std::size_t>(config.parts);
  const std::size_t out_count = tokens * static_cast<std::size_t>(config.hidden);
  const std::size_t sum_count = parts * tokens * static_cast<std::size_t>(hidden16());
  const std::size_t dr_count = rows * static_cast<std::size_t>(dr_blocks());
  const bool copy_out = grad_out.dtype != DType::bfloat16;
  // One after the other: dOut, then dG and dU.
  const auto rounded_by = [&](Base which) {
    return rounded_size(Axis::n, layer.shape(which), Rows{}.granule, parts * rows);
  };
  const std::size_t rounded_bytes = std::max(rounded_by(Base::down), 2 * rounded_by(Base::gate));

  const auto act = [](std::size_t count) { return Arena::padded(count * sizeof(act_t)); };
  const auto f32 = [](std::size_t count) { return Arena::padded(count * sizeof(float)); };
  Arena& scratch = pool.arena();
  scratch.reset((copy_out ? act(out_count) : 0) + 3 * act(rows * width) + 3 * f32(rows * rank16) +
                Arena::padded(rounded_bytes) + f32(dr_count) + f32(sum_count));
  Buffers b{};
  b.out_copy = copy_out ? scratch.take<act_t>(out_count) : nullptr;
  b.dgate = scratch.take<act_t>(rows * width);
  b.dup = scratch.take<act_t>(rows * width);
  b.h = scratch.take<act_t>(rows * width);
  for (float*& m : b.mid) m = scratch.take<float>(rows * rank16);
  b.rounded[0] = scratch.take<std::byte>(rounded_bytes);
  b.rounded[1] = b.rounded[0] + rounded_by(Base::gate);
  b.dr = scratch.take<float>(dr_count);
  b.sums = scratch.take<float>(sum_count);
  return b;
}

void BackwardWalk::run(const SavedChunk& saved, const Tensor& grad_out, const Tensor& grad_x,
                       const GradSink& grads, const Tensor* grad_weights, std::int64_t first) {
  Buffers b = buffers(saved, grad_out);
  b.dout = activations(chunk(grad_out, first), grad_out.dtype,
                       std::int64_t{saved.tokens} * config.hidden, b.out_copy);
  if (config.rank > 0) down_mid(saved, b);
  activation(saved, b);
  if (config.rank > 0) gate_up_mid(saved, b);
  input(saved, b);
  if (config.rank > 0) lora_grads(saved, b, grads);
  if (grad_weights != nullptr) routing_grads(saved, b, *grad_weights, first);
  finish(b.sums, saved.tokens, grad_x.dtype, const_cast<std::byte*>(chunk(grad_x, first)));
}

// s dOut Bd
void BackwardWalk::down_mid(const SavedChunk& saved, const Buffers& b) {
  const Routing& routing = *saved.routing;
  const int r16 = layer.rank16();
  pool.run(1, static_cast<int>(routing.blocks.size()), [&](int /*part*/, int task, Scratch& s) {
    const Block& block = routing.blocks[static_cast<std::size_t>(task)];
    const RowMajor lora_b = layer.lora(0, block.expert, Lora::down_b);
    clear(s.c[0], block.rows, config.rank);
    kernels.gemm_rows[1](gathered(b.dout, routing, block.first), block.rows, &lora_b, s.c, 1, 0,
                         config.rank, s);
    kernels.store_rows(s.c[0], r16, block.rows, config.rank, config.scaling,
                       b.mid[2] + std::int64_t{block.first} * r16, r16);
  });
}

// dH', and through the activation dG, dU, H and the pieces of dr
void BackwardWalk::activation(const SavedChunk& saved, const Buffers& b) {
  const Routing& routing = *saved.routing;
  const int inter = layer.part_inter();
  const int pieces = div_up(inter, kActivationCols);
  const auto blocks = static_cast<int>(routing.blocks.size());
  const std::int64_t width = layer.width();
  const Operand dout = rounded(
      Axis::n, {gathered(b.dout, routing, 0)}, config.parts, routing.blocks,
      [&](int part, int expert) { return layer.base(part, expert, Base::down); }, b.rounded[0]);
  pool.run(config.parts, blocks * pieces, [&](int part, int task, Scratch& s) {
    const Block& block = routing.blocks[static_cast<std::size_t>(task / pieces)];
    const int from = task % pieces * kActivationCols;
    const int to = min(inter, from + kActivationCols);
    const Packed w = layer.base(part, block.expert, Base::down);
    clear(s.c[0], block.rows, to - from);
    kernels.gemm[1](dout.at(part, block.first), block.rows, &w, s.c, 1, from, to, s);
    if (config.rank > 0) {
      const RowMajor lora_a = layer.lora(part, block.expert, Lora::down_a);
      kernels.gemm_rows[1](dense(b.mid[2], layer.rank16(), block.first), block.rows, &lora_a, s.c,
                           1, from, to, s);
    }
    const std::int64_t at = block.first * width + std::int64_t{part} * part_width() + from;
    float* const dr = b.dr + std::int64_t{block.first} * dr_blocks() + std::int64_t{part} * pieces +
                      from / kActivationCols;
    kernels.swiglu_backward(s.c[0], routing.weight.data() + block.first, block.rows,
                            round_up(to - from, kLanes), saved.gate + at, saved.up + at,
                            b.dgate + at, b.dup + at, b.h + at, width, dr, dr_blocks());
  });
}

// s dG Bg and s dU Bu
void BackwardWalk::gate_up_mid(const SavedChunk& saved, const Buffers& b) {
  const Routing& routing = *saved.routing;
  const int r16 = layer.rank16();
  const std::int64_t width = layer.width();
  pool.run(1, 2 * static_cast<int>(routing.blocks.size()), [&](int /*part*/, int task, Scratch& s) {
    const Block& block = routing.blocks[static_cast<std::size_t>(task / 2)];
    const bool up = task % 2 != 0;
    clear(s.c[0], block.rows, config.rank);
    for (int part = 0; part < config.parts; ++part) {
      const RowMajor lora_b = layer.lora(part, block.expert, up ? Lora::up_b : Lora::gate_b);
      const act_t* const d = (up ? b.dup : b.dgate) + std::int64_t{part} * part_width();
      kernels.gemm_rows[1](dense(d, width, block.first), block.rows, &lora_b, s.c, 1, 0,
                           config.rank, s);
    }
    kernels.store_rows(s.c[0], r16, block.rows, config.rank, config.scaling,
                       b.mid[up ? 1 : 0] + std::int64_t{block.first} * r16, r16);
  });
}

// dX: a task owns columns of it for all experts
void BackwardWalk::input(const SavedChunk& saved, const Buffers& b) {
  const Routing& routing = *saved.routing;
  const int r16 = layer.rank16();
  const std::int64_t stride = part_width() * static_cast<std::int64_t>(sizeof(act_t));
  Operand d[2];  // dG, dU
  for (std::size_t i = 0; i < 2; ++i) {
    const Base which = i == 0 ? Base::gate : Base::up;
    d[i] = rounded(
        Axis::n, {dense(i == 0 ? b.dgate : b.dup, layer.width()), stride}, config.parts,
        routing.blocks, [&](int part, int expert) { return layer.base(part, expert, which); },
        b.rounded[i]);
  }
  const int cols_per_task = task_cols(config.hidden, config.parts);
  pool.run(config.parts, div_up(config.hidden, cols_per_task), [&](int part, int task, Scratch& s) {
    const int from = task * cols_per_task;
    const int to = min(config.hidden, from + cols_per_task);
    const int cols = round_up(to - from, kLanes);
    float* const sum = b.sums + std::int64_t{part} * saved.tokens * hidden16() + from;
    for (std::int64_t t = 0; t < saved.tokens; ++t) clear(sum + t * hidden16(), 1, cols);
    for (const Block& block : routing.blocks) {
      clear(s.c[0], block.rows, cols);
      for (int i = 0; i < 2; ++i) {
        const Packed w = layer.base(part, block.expert, i == 0 ? Base::gate : Base::up);
        kernels.gemm[1](d[i].at(part, block.first), block.rows, &w, s.c, 1, from, to, s);
        if (config.rank > 0 && part == 0) {
          const RowMajor lora_a = layer.lora(0, block.expert, i == 0 ? Lora::gate_a : Lora::up_a);
          kernels.gemm_rows[1](dense(b.mid[static_cast<std::size_t>(i)], r16, block.first),
                               block.rows, &lora_a, s.c, 1, from, to, s);
        }
      }
      kernels.scatter_add(s.c[0], cols, block.rows, cols, routing.token.data() + block.first,
                          nullptr, sum, hidden16());
    }
  });
}

void BackwardWalk::routing_grads(const SavedChunk& saved, const Buffers& b,
                                 const Tensor& grad_weights, std::int64_t first) {
  const Routing& routing = *saved.routing;
  auto* const out = reinterpret_cast<float*>(grad_weights.data) + first * config.top_k;
  std::memset(out, 0,
              sizeof(float) * static_cast<std::size_t>(saved.tokens) *
                  static_cast<std::size_t>(config.top_k));
  for (int row = 0; row < routing.rows(); ++row) {
    float sum = 0.0F;
    for (int i = 0; i < dr_blocks(); ++i) sum += b.dr[std::int64_t{row} * dr_blocks() + i];
    out[routing.place[static_cast<std::size_t>(row)]] = sum;
  }
}

}  // namespace kt
