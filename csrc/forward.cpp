// The forward walk: phases of independent tasks, a barrier between them.
//
//   G = X Wg' + s (X Ag') Bg'    U alike    H = silu(G) * U    Y = H Wd' + s (H Ad') Bd'
//   out[t] += r Y
//
// A task of the last product owns columns of the output for all experts, so that sums over experts
// run in a fixed order without atomics.
#include <algorithm>

#include "walk.h"

namespace kt {
namespace {

// Products of two have long tails: 1.1% would be lost at 64, and is 0.9% at 32 (docs/rounding.md).
constexpr int kGranuleOfH = 32;

}  // namespace

const act_t* Walk::activations(const std::byte* data, DType dtype, std::int64_t count, act_t* out) {
  if (out == nullptr) return reinterpret_cast<const act_t*>(data);
  constexpr std::int64_t kPiece = 16384;  // elements: a few microseconds of work
  const auto size = static_cast<std::int64_t>(size_of(dtype));
  const auto pieces = static_cast<int>((count + kPiece - 1) / kPiece);
  pool.run(1, pieces, [&](int /*part*/, int task, Scratch&) {
    const std::int64_t from = task * kPiece;
    const std::int64_t n = count - from < kPiece ? count - from : kPiece;
    kernels.to_act(data + from * size, dtype, n, out + from);
  });
  return out;
}

void Walk::finish(const float* sums, int tokens, DType dtype, std::byte* out) {
  const auto row = config.hidden * static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t part_stride = std::int64_t{tokens} * hidden16();
  constexpr int kTokens = 4;
  pool.run(1, div_up(tokens, kTokens), [&](int /*part*/, int task, Scratch&) {
    for (int t = task * kTokens; t < min(tokens, (task + 1) * kTokens); ++t) {
      kernels.sum_parts(sums + std::int64_t{t} * hidden16(), config.parts, part_stride,
                        config.hidden, dtype, out + t * row);
    }
  });
}

ForwardWalk::Buffers ForwardWalk::buffers(const Tensor& x, const Routing& routing, int tokens,
                                          SavedChunk* saved) {
  const auto rows = static_cast<std::size_t>(routing.rows());
  const auto width = static_cast<std::size_t>(layer.width());
  const auto rank16 = static_cast<std::size_t>(layer.rank16());
  const auto parts = static_cast<std::size_t>(config.parts);
  const auto x_rows = static_cast<std::size_t>(tokens);
  const std::size_t x_count = x_rows * static_cast<std::size_t>(config.hidden);
  const std::size_t sum_count = parts * x_rows * static_cast<std::size_t>(hidden16());
  const bool copy_x = saved != nullptr || x.dtype != DType::bfloat16;
  // One after the other: X, then H.
  const std::size_t rounded_bytes =
      std::max(rounded_size(Axis::k, layer.shape(Base::gate), Rows{}.granule, x_rows),
               rounded_size(Axis::k, layer.shape(Base::down), kGranuleOfH, parts * rows));

  Arena& scratch = pool.arena();
  Arena& kept = saved != nullptr ? saved->memory : scratch;
  const auto act = [](std::size_t count) { return Arena::padded(count * sizeof(act_t)); };
  const auto f32 = [](std::size_t count) { return Arena::padded(count * sizeof(float)); };
  const std::size_t kept_bytes = (copy_x ? act(x_count) : 0) + 3 * f32(rows * rank16) +
                                 (saved != nullptr ? 2 * act(rows * width) : 0);
  const std::size_t own_bytes = act(rows * width) + Arena::padded(rounded_bytes) + f32(sum_count);
  if (saved != nullptr) {
    kept.reset(kept_bytes);
    scratch.reset(own_bytes);
  } else {
    scratch.reset(kept_bytes + own_bytes);
  }
  Buffers b{};
  b.x_copy = copy_x ? kept.take<act_t>(x_count) : nullptr;
  for (float*& m : b.mid) m = kept.take<float>(rows * rank16);
  b.gate = saved != nullptr ? kept.take<act_t>(rows * width) : nullptr;
  b.up = saved != nullptr ? kept.take<act_t>(rows * width) : nullptr;
  b.h = scratch.take<act_t>(rows * width);
  b.rounded = scratch.take<std::byte>(rounded_bytes);
  b.sums = scratch.take<float>(sum_count);
  return b;
}

void ForwardWalk::run(const Tensor& x, std::unique_ptr<Routing> routing, const Tensor& out,
                      std::int64_t first, int tokens, SavedChunk* saved) {
  Buffers b = buffers(x, *routing, tokens, saved);
  b.x = activations(chunk(x, first), x.dtype, std::int64_t{tokens} * config.hidden, b.x_copy);
  if (config.rank > 0) gate_up_mid(*routing, b);
  gate_up(*routing, b, tokens);
  if (config.rank > 0) down_mid(*routing, b);
  down(*routing, b, tokens);
  finish(b.sums, tokens, out.dtype, const_cast<std::byte*>(chunk(out, first)));

  if (saved != nullptr) {
    saved->routing = std::move(routing);
    saved->tokens = tokens;
    saved->x = b.x_copy;
    saved->gate = b.gate;
    saved->up = b.up;
    saved->mid = b.mid;
  }
}

// s X A' of gate and up
void ForwardWalk::gate_up_mid(const Routing& routing, const Buffers& b) {
  const int rank = config.rank;
  const int r16 = layer.rank16();
  pool.run(1, static_cast<int>(routing.blocks.size()), [&](int /*part*/, int task, Scratch& s) {
    const Block& block = routing.blocks[static_cast<std::size_t>(task)];
    const RowMajor a[2] = {layer.lora(0, block.expert, Lora::gate_a),
                           layer.lora(0, block.expert, Lora::up_a)};
    for (float* const c : s.c) clear(c, block.rows, r16);
    kernels.gemm_rows[0](gathered(b.x, routing, block.first), block.rows, a, s.c, r16, 2, 0, rank,
                         s);
    for (int i = 0; i < 2; ++i) {
      kernels.store_rows(s.c[i], r16, block.rows, rank, config.scaling,
                         b.mid[static_cast<std::size_t>(i)] + std::int64_t{block.first} * r16, r16);
    }
  });
}

// G, U and H
void ForwardWalk::gate_up(const Routing& routing, const Buffers& b, int tokens) {
  const Block all{0, 0, tokens};  // rounded by token, not by row: a token's experts share it
  Operand x = rounded(
      Axis::k, {dense(b.x, config.hidden)}, 1, routing.blocks, {&all, 1},
      [&](int, int) { return layer.base(0, 0, Base::gate); }, b.rounded);
  x.source.rows.index = x.rounded.rows.index = routing.token.data();
  const int inter = layer.part_inter();
  const int r16 = layer.rank16();
  const std::int64_t width = layer.width();
  const auto blocks = static_cast<int>(routing.blocks.size());
  const int cols = task_cols(inter, blocks * config.parts);
  const int pieces = div_up(inter, cols);
  pool.run(config.parts, blocks * pieces, [&](int part, int task, Scratch& s) {
    const Block& block = routing.blocks[static_cast<std::size_t>(task / pieces)];
    const int from = task % pieces * cols;
    const int to = min(inter, from + cols);
    const Packed w[2] = {layer.base(part, block.expert, Base::gate),
                         layer.base(part, block.expert, Base::up)};
    const int ldc = c_stride(to - from);
    for (float* const c : s.c) clear(c, block.rows, ldc);
    kernels.gemm[0](x.of(part, block), block.rows, w, s.c, ldc, 2, from, to, s);
    if (config.rank > 0) {
      const Lora which[2] = {Lora::gate_b, Lora::up_b};
      for (int i = 0; i < 2; ++i) {
        const RowMajor lora_b = layer.lora(part, block.expert, which[i]);
        kernels.gemm_rows[0](dense(b.mid[static_cast<std::size_t>(i)], r16, block.first),
                             block.rows, &lora_b, &s.c[i], ldc, 1, from, to, s);
      }
    }
    const std::int64_t at = block.first * width + std::int64_t{part} * part_width() + from;
    kernels.swiglu(s.c[0], s.c[1], ldc, block.rows, round_up(to - from, kLanes),
                   b.gate != nullptr ? b.gate + at : nullptr, b.up != nullptr ? b.up + at : nullptr,
                   b.h + at, width);
  });
}

PartRows ForwardWalk::h_rows(const Buffers& b) const {
  PartRows h{dense(b.h, layer.width()), part_width() * static_cast<std::int64_t>(sizeof(act_t))};
  h.rows.granule = kGranuleOfH;
  return h;
}

// s H Ad'
void ForwardWalk::down_mid(const Routing& routing, const Buffers& b) {
  const int rank = config.rank;
  const int r16 = layer.rank16();
  const PartRows h = h_rows(b);
  pool.run(1, static_cast<int>(routing.blocks.size()), [&](int /*part*/, int task, Scratch& s) {
    const Block& block = routing.blocks[static_cast<std::size_t>(task)];
    clear(s.c[0], block.rows, r16);
    for (int part = 0; part < config.parts; ++part) {
      const RowMajor a = layer.lora(part, block.expert, Lora::down_a);
      kernels.gemm_rows[0](h.at(part, block.first), block.rows, &a, s.c, r16, 1, 0, rank, s);
    }
    kernels.store_rows(s.c[0], r16, block.rows, rank, config.scaling,
                       b.mid[2] + std::int64_t{block.first} * r16, r16);
  });
}

// The weighted sum over experts: a task owns columns of it
void ForwardWalk::down(const Routing& routing, const Buffers& b, int tokens) {
  const Operand h = rounded(
      Axis::k, h_rows(b), config.parts, routing.blocks, routing.blocks,
      [&](int part, int expert) { return layer.base(part, expert, Base::down); }, b.rounded);
  const int r16 = layer.rank16();
  const int cols_per_task = task_cols(config.hidden, config.parts);
  pool.run(config.parts, div_up(config.hidden, cols_per_task), [&](int part, int task, Scratch& s) {
    const int from = task * cols_per_task;
    const int to = min(config.hidden, from + cols_per_task);
    const int cols = round_up(to - from, kLanes);
    const int ldc = c_stride(cols);
    float* const sum = b.sums + std::int64_t{part} * tokens * hidden16() + from;
    for (std::int64_t t = 0; t < tokens; ++t) clear(sum + t * hidden16(), 1, cols);
    for (const Block& block : routing.blocks) {
      const Packed w = layer.base(part, block.expert, Base::down);
      clear(s.c[0], block.rows, ldc);
      kernels.gemm[0](h.of(part, block), block.rows, &w, s.c, ldc, 1, from, to, s);
      if (config.rank > 0 && part == 0) {
        const RowMajor lora_b = layer.lora(0, block.expert, Lora::down_b);
        kernels.gemm_rows[0](dense(b.mid[2], r16, block.first), block.rows, &lora_b, s.c, ldc, 1,
                             from, to, s);
      }
      kernels.scatter_add(s.c[0], ldc, block.rows, cols, routing.token.data() + block.first,
                          routing.weight.data() + block.first, sum, hidden16());
    }
  });
}

}  // namespace kt
