// The forward walk: phases of independent tasks, a barrier between them.
//
//   G = X Wg' + s (X Ag') Bg'    U alike    H = silu(G) * U    Y = H Wd' + s (H Ad') Bd'
//   out[t] += r Y
//
// A task of the last product owns columns of the output for all experts, so that sums over experts
// run in a fixed order without atomics.
#include "walk.h"

namespace kt {

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

void ForwardWalk::run(const Tensor& x, std::unique_ptr<Routing> routing_, const Tensor& out,
                      std::int64_t first, int tokens, SavedChunk* saved) {
  const Routing& routing = *routing_;
  const auto rows = static_cast<std::size_t>(routing.rows());
  const auto width = static_cast<std::size_t>(layer.width());
  const auto rank16 = static_cast<std::size_t>(layer.rank16());
  const auto x_count = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(config.hidden);
  const std::size_t sum_count = static_cast<std::size_t>(config.parts) *
                                static_cast<std::size_t>(tokens) *
                                static_cast<std::size_t>(hidden16());
  const bool copy_x = saved != nullptr || x.dtype != DType::bfloat16;

  Arena& scratch = pool.arena();
  Arena& kept = saved != nullptr ? saved->memory : scratch;
  const auto act = [](std::size_t count) { return Arena::padded(count * sizeof(act_t)); };
  const auto f32 = [](std::size_t count) { return Arena::padded(count * sizeof(float)); };
  const std::size_t kept_bytes = (copy_x ? act(x_count) : 0) + 3 * f32(rows * rank16) +
                                 (saved != nullptr ? 2 * act(rows * width) : 0);
  const std::size_t own_bytes = act(rows * width) + f32(sum_count);
  if (saved != nullptr) {
    kept.reset(kept_bytes);
    scratch.reset(own_bytes);
  } else {
    scratch.reset(kept_bytes + own_bytes);
  }
  act_t* const x_copy = copy_x ? kept.take<act_t>(x_count) : nullptr;
  std::array<float*, 3> mid{};
  for (float*& m : mid) m = kept.take<float>(rows * rank16);
  act_t* const gate = saved != nullptr ? kept.take<act_t>(rows * width) : nullptr;
  act_t* const up = saved != nullptr ? kept.take<act_t>(rows * width) : nullptr;
  act_t* const h = scratch.take<act_t>(rows * width);
  float* const sums = scratch.take<float>(sum_count);

  const act_t* const xs =
      activations(chunk(x, first), x.dtype, static_cast<std::int64_t>(x_count), x_copy);
  const int rank = config.rank;
  const int r16 = layer.rank16();
  const auto blocks = static_cast<int>(routing.blocks.size());
  const auto block_at = [&](int i) -> const Block& {
    return routing.blocks[static_cast<std::size_t>(i)];
  };

  if (rank > 0) {  // mid = s X A' of gate and up
    pool.run(1, blocks, [&](int /*part*/, int task, Scratch& s) {
      const Block& b = block_at(task);
      const RowMajor a[2] = {layer.lora(0, b.expert, Lora::gate_a),
                             layer.lora(0, b.expert, Lora::up_a)};
      for (float* const c : s.c) clear(c, b.rows, rank);
      kernels.gemm_rows[0](gathered(xs, routing, b.first), b.rows, a, s.c, 2, 0, rank, s);
      for (int i = 0; i < 2; ++i) {
        kernels.store_rows(s.c[i], r16, b.rows, rank, config.scaling,
                           mid[static_cast<std::size_t>(i)] + std::int64_t{b.first} * r16, r16);
      }
    });
  }

  const int inter = layer.part_inter();
  const int inter_cols = task_cols(inter, blocks * config.parts);
  const int inter_tasks = div_up(inter, inter_cols);
  pool.run(config.parts, blocks * inter_tasks, [&](int part, int task, Scratch& s) {
    const Block& b = block_at(task / inter_tasks);
    const int from = task % inter_tasks * inter_cols;
    const int to = min(inter, from + inter_cols);
    const Packed w[2] = {layer.base(part, b.expert, Base::gate),
                         layer.base(part, b.expert, Base::up)};
    for (float* const c : s.c) clear(c, b.rows, to - from);
    kernels.gemm[0](gathered(xs, routing, b.first), b.rows, w, s.c, 2, from, to, s);
    if (rank > 0) {
      const Lora which[2] = {Lora::gate_b, Lora::up_b};
      for (int i = 0; i < 2; ++i) {
        const RowMajor lora_b = layer.lora(part, b.expert, which[i]);
        kernels.gemm_rows[0](dense(mid[static_cast<std::size_t>(i)], r16, b.first), b.rows, &lora_b,
                             &s.c[i], 1, from, to, s);
      }
    }
    const std::int64_t at =
        b.first * static_cast<std::int64_t>(width) + std::int64_t{part} * part_width() + from;
    kernels.swiglu(s.c[0], s.c[1], b.rows, round_up(to - from, kLanes),
                   gate != nullptr ? gate + at : nullptr, up != nullptr ? up + at : nullptr, h + at,
                   static_cast<std::int64_t>(width));
  });

  const auto h_rows = [&](int part, int row) {
    Rows r = dense(h + std::int64_t{part} * part_width(), static_cast<std::int64_t>(width), row);
    // Products of two have long tails: 1.1% would be lost at 64, and is 0.9% at 32
    // (docs/rounding.md).
    r.granule = 32;
    return r;
  };
  if (rank > 0) {  // mid = s H Ad'
    pool.run(1, blocks, [&](int /*part*/, int task, Scratch& s) {
      const Block& b = block_at(task);
      clear(s.c[0], b.rows, rank);
      for (int part = 0; part < config.parts; ++part) {
        const RowMajor a = layer.lora(part, b.expert, Lora::down_a);
        kernels.gemm_rows[0](h_rows(part, b.first), b.rows, &a, s.c, 1, 0, rank, s);
      }
      kernels.store_rows(s.c[0], r16, b.rows, rank, config.scaling,
                         mid[2] + std::int64_t{b.first} * r16, r16);
    });
  }

  const int hidden_cols = task_cols(config.hidden, config.parts);
  pool.run(config.parts, div_up(config.hidden, hidden_cols), [&](int part, int task, Scratch& s) {
    const int from = task * hidden_cols;
    const int to = min(config.hidden, from + hidden_cols);
    const int cols = round_up(to - from, kLanes);
    float* const sum = sums + std::int64_t{part} * tokens * hidden16() + from;
    for (std::int64_t t = 0; t < tokens; ++t) clear(sum + t * hidden16(), 1, cols);
    for (const Block& b : routing.blocks) {
      const Packed w = layer.base(part, b.expert, Base::down);
      clear(s.c[0], b.rows, cols);
      kernels.gemm[0](h_rows(part, b.first), b.rows, &w, s.c, 1, from, to, s);
      if (rank > 0 && part == 0) {
        const RowMajor lora_b = layer.lora(0, b.expert, Lora::down_b);
        kernels.gemm_rows[0](dense(mid[2], r16, b.first), b.rows, &lora_b, s.c, 1, from, to, s);
      }
      kernels.scatter_add(s.c[0], cols, b.rows, cols, routing.token.data() + b.first,
                          routing.weight.data() + b.first, sum, hidden16());
    }
  });
  finish(sums, tokens, out.dtype, const_cast<std::byte*>(chunk(out, first)));

  if (saved != nullptr) {
    saved->routing = std::move(routing_);
    saved->tokens = tokens;
    saved->x = x_copy;
    saved->gate = gate;
    saved->up = up;
    saved->mid = mid;
  }
}

}  // namespace kt
