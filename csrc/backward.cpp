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
namespace {

// Rows of a block up to which dX's products are kept one by one: memory is the limit, and with 256
// columns to a task the weights would be read in pieces of 2 to 8 KiB, 16 rows apart. At
// DeepSeek-V3's widths and 4 rows whole rows take two thirds of the time for INT4. At most one tile
// of AMX: with more the last one writes rows of C behind its own.
constexpr int kFewRows = 16;
// For them, at most: as much as the buffers of five threads. (With 256 experts 4 tokens each leave
// 2048 columns at a time.)
constexpr std::int64_t kProductBytes = std::int64_t{8} << 20;

}  // namespace

BackwardWalk::Buffers BackwardWalk::buffers(const SavedChunk& saved, const Tensor& grad_out) {
  const auto rows = static_cast<std::size_t>(saved.routing->rows());
  const auto width = static_cast<std::size_t>(layer.width());
  const auto rank16 = static_cast<std::size_t>(layer.rank16());
  const auto tokens = static_cast<std::size_t>(saved.tokens);
  const auto parts = static_cast<std::size_t>(config.parts);
  const std::size_t out_count = tokens * static_cast<std::size_t>(config.hidden);
  const std::size_t sum_count = parts * tokens * static_cast<std::size_t>(hidden16());
  const std::size_t dr_count = rows * static_cast<std::size_t>(dr_blocks());
  bool few = true;
  for (const Block& block : saved.routing->blocks) few = few && block.rows <= kFewRows;
  const std::size_t product_count =
      few ? parts * rows * static_cast<std::size_t>(product_cols(saved.routing->rows())) : 0;
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
                Arena::padded(rounded_bytes) + f32(dr_count) + f32(sum_count) + f32(product_count));
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
  b.products = few ? scratch.take<float>(product_count) : nullptr;
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
    clear(s.c[0], block.rows, r16);
    kernels.gemm_rows[1](gathered(b.dout, routing, block.first), block.rows, &lora_b, s.c, r16, 1,
                         0, config.rank, s);
    kernels.store_rows(s.c[0], r16, block.rows, config.rank, config.scaling,
                       b.mid[2] + std::int64_t{block.first} * r16, r16);
  });
}

// dH', and through the activation dG, dU, H and the pieces of dr
void BackwardWalk::activation(const SavedChunk& saved, const Buffers& b) {
  const Routing& routing = *saved.routing;
  const int inter = layer.part_inter();
  const auto blocks = static_cast<int>(routing.blocks.size());
  int cols = kActivationCols;
  if (b.products != nullptr) {  // few rows: whole rows of weights, as for dX
    constexpr int kMost = kMaxRows * kMaxCols / kFewRows;  // that the buffers hold
    cols = task_cols(inter, blocks * config.parts, min(kMost, round_up(inter, kActivationCols)),
                     kActivationCols);
  }
  const int pieces = div_up(inter, cols);
  const std::int64_t width = layer.width();
  const Operand dout = rounded(
      Axis::n, {gathered(b.dout, routing, 0)}, config.parts, routing.blocks, routing.blocks,
      [&](int part, int expert) { return layer.base(part, expert, Base::down); }, b.rounded[0]);
  pool.run(config.parts, blocks * pieces, [&](int part, int task, Scratch& s) {
    const Block& block = routing.blocks[static_cast<std::size_t>(task / pieces)];
    const int from = task % pieces * cols;
    const int to = min(inter, from + cols);
    const Packed w = layer.base(part, block.expert, Base::down);
    const int ldc = c_stride(to - from);
    clear(s.c[0], block.rows, ldc);
    kernels.gemm[1](dout.of(part, block), block.rows, &w, s.c, ldc, 1, from, to, s);
    if (config.rank > 0) {
      const RowMajor lora_a = layer.lora(part, block.expert, Lora::down_a);
      kernels.gemm_rows[1](dense(b.mid[2], layer.rank16(), block.first), block.rows, &lora_a, s.c,
                           ldc, 1, from, to, s);
    }
    for (int j = from; j < to; j += kActivationCols) {
      const std::int64_t at = block.first * width + std::int64_t{part} * part_width() + j;
      float* const dr = b.dr + std::int64_t{block.first} * dr_blocks() +
                        std::int64_t{part} * div_up(inter, kActivationCols) + j / kActivationCols;
      kernels.swiglu_backward(s.c[0] + (j - from), ldc, routing.weight.data() + block.first,
                              block.rows, round_up(min(kActivationCols, to - j), kLanes),
                              saved.gate + at, saved.up + at, b.dgate + at, b.dup + at, b.h + at,
                              width, dr, dr_blocks());
    }
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
    clear(s.c[0], block.rows, r16);
    for (int part = 0; part < config.parts; ++part) {
      const RowMajor lora_b = layer.lora(part, block.expert, up ? Lora::up_b : Lora::gate_b);
      const act_t* const d = (up ? b.dup : b.dgate) + std::int64_t{part} * part_width();
      kernels.gemm_rows[1](dense(d, width, block.first), block.rows, &lora_b, s.c, r16, 1, 0,
                           config.rank, s);
    }
    kernels.store_rows(s.c[0], r16, block.rows, config.rank, config.scaling,
                       b.mid[up ? 1 : 0] + std::int64_t{block.first} * r16, r16);
  });
}

// Columns of dX's products at a time: all, if they fit.
int BackwardWalk::product_cols(int rows) const {
  const std::int64_t fit =
      kProductBytes / (std::int64_t{config.parts} * max(1, rows) * 4) / kMaxCols * kMaxCols;
  return max(kMaxCols,
             static_cast<int>(std::min<std::int64_t>(fit, round_up(config.hidden, kMaxCols))));
}

// dG Wg + s (dG Bg) Ag + dU Wu + s (dU Bu) Au
void BackwardWalk::input_product(const Block& block, int part, const Operand (&d)[2],
                                 const Buffers& b, int from, int to, float* c, int ldc,
                                 Scratch& s) {
  const int r16 = layer.rank16();
  clear(c, block.rows, ldc);
  for (int i = 0; i < 2; ++i) {
    const Packed w = layer.base(part, block.expert, i == 0 ? Base::gate : Base::up);
    kernels.gemm[1](d[i].of(part, block), block.rows, &w, &c, ldc, 1, from, to, s);
    if (config.rank > 0 && part == 0) {
      const RowMajor lora_a = layer.lora(0, block.expert, i == 0 ? Lora::gate_a : Lora::up_a);
      kernels.gemm_rows[1](dense(b.mid[static_cast<std::size_t>(i)], r16, block.first), block.rows,
                           &lora_a, &c, ldc, 1, from, to, s);
    }
  }
}

// dX, a token's experts added up in their order: a task owns columns of it.
void BackwardWalk::input(const SavedChunk& saved, const Buffers& b) {
  const Routing& routing = *saved.routing;
  const std::int64_t stride = part_width() * static_cast<std::int64_t>(sizeof(act_t));
  Operand d[2];  // dG, dU
  for (std::size_t i = 0; i < 2; ++i) {
    const Base which = i == 0 ? Base::gate : Base::up;
    d[i] = rounded(
        Axis::n, {dense(i == 0 ? b.dgate : b.dup, layer.width()), stride}, config.parts,
        routing.blocks, routing.blocks,
        [&](int part, int expert) { return layer.base(part, expert, which); }, b.rounded[i]);
  }
  // Columns [from, from + cols) of a part's sum: product(block) gives a block's share of them.
  const auto add_up = [&](int part, int from, int cols, int ldc, auto product) {
    float* const sum = b.sums + std::int64_t{part} * saved.tokens * hidden16() + from;
    for (std::int64_t t = 0; t < saved.tokens; ++t) clear(sum + t * hidden16(), 1, cols);
    for (const Block& block : routing.blocks) {
      kernels.scatter_add(product(block), ldc, block.rows, cols, routing.token.data() + block.first,
                          nullptr, sum, hidden16());
    }
  };
  if (b.products == nullptr) {
    const int width = task_cols(config.hidden, config.parts);
    pool.run(config.parts, div_up(config.hidden, width), [&](int part, int task, Scratch& s) {
      const int from = task * width;
      const int to = min(config.hidden, from + width);
      const int cols = round_up(to - from, kLanes);
      const int ldc = c_stride(cols);
      add_up(part, from, cols, ldc, [&](const Block& block) {
        input_product(block, part, d, b, from, to, s.c[0], ldc, s);
        return s.c[0];
      });
    });
    return;
  }
  // Few rows: an expert's weights are read once and in the order in which they lie, its products
  // are kept, and added up in a second step.
  const auto blocks = static_cast<int>(routing.blocks.size());
  const int span = product_cols(routing.rows());
  for (int start = 0; start < config.hidden; start += span) {
    const int end = min(config.hidden, start + span);
    const int width = task_cols(end - start, blocks * config.parts, span);
    const int pieces = div_up(end - start, width);
    // [parts][pieces][rows][width], the last piece's rows shorter
    const auto products = [&](int part, int piece, const Block& block, int cols) {
      return b.products + (std::int64_t{part} * pieces + piece) * routing.rows() * width +
             std::int64_t{block.first} * cols;
    };
    pool.run(config.parts, blocks * pieces, [&](int part, int task, Scratch& s) {
      const Block& block = routing.blocks[static_cast<std::size_t>(task / pieces)];
      const int from = start + task % pieces * width;
      const int to = min(end, from + width);
      const int ldc = round_up(to - from, kLanes);
      input_product(block, part, d, b, from, to, products(part, task % pieces, block, ldc), ldc, s);
    });
    const int shares = div_up(width, kMaxCols);  // of a piece, to be added up
    pool.run(config.parts, pieces * shares, [&](int part, int task, Scratch&) {
      const int piece = task / shares;
      const int offset = task % shares * kMaxCols;
      const int cols = round_up(min(width, end - start - piece * width), kLanes);
      if (offset >= cols) return;  // the last piece is shorter
      add_up(part, start + piece * width + offset, min(kMaxCols, cols - offset), cols,
             [&](const Block& block) { return products(part, piece, block, cols) + offset; });
    });
  }
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
