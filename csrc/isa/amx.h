// AMX: TDPBF16PS multiplies up to 16 rows of 32 columns of A by as much of a panel. AVX-512's
// panels are what the tile unit takes for B: a row of a tile is a pair of 16 outputs. Elementwise
// operations and products of few rows are those of AVX-512 with BF16, and with VBMI for integer
// codes; of many rows those multiply activations as they lie, too (amx_panels.h). (Intel SDM vol.
// 2, "TDPBF16PS": even and odd columns are summed apart, sums rounded to nearest even, denormals
// flushed.)
//
// While the unit multiplies a panel the next one is unpacked. What limits is lines on their way to
// L1, of which a core has 16: A's tiles come from L2, the weights from memory, 200 ns away. Cycles
// for a product of full tiles (1,024 bytes of A, B and C each; the unit works 16) on a 2-core guest
// of an Intel Xeon (3.95 GHz by a loop of additions), 128 rows, weights from memory:
//
//   operands in L1, no C                           22 (19 if all are zero: the clock is higher)
//   a panel from L1, A and C from L2               34
//   and unpacking BF16 / INT4                  63 / 46
//   and packing A for 256 columns of outputs   80 / 70
//
// With BF16 and without packing A, panels of 128 columns take 75 instead of 63, but 48 rows 124
// instead of 144, so the depth follows the rows; with A in blocks of more columns than 256 it is 69
// and 162. Unpacking first and multiplying then takes 82, INT4 66. What did not help: fetching A's
// next block between the products (integers up to a tenth more), every second or fourth line only,
// tasks of 512 columns (8% less to 11% more).
#pragma once

namespace kt {
namespace {

// A panel of a product, in the order in which they are multiplied.
struct PanelAt {
  int s0;     // A's block begins there
  int piece;  // of A
  int term;
  int output;
  int sum;  // from s0 on
};

struct Amx : Avx512Bf16 {
  static constexpr const char* kName = "amx";
  static constexpr int kVectors = 2;
  // Up to two rows go straight over the blocks. Four read weights of DeepSeek-V3's widths from
  // memory at 24 to 25 GB/s along k and 27 to 31 along n by way of panels, at 22 and 25 to 27
  // without; six at 25 and 31 instead of 21 and 23: 16-bit products of AVX-512 start every other
  // cycle, and one of the unit takes as many as A has rows.
  static constexpr int kDirectRows = 2;
  static constexpr int kDepth = 256;  // columns of A at a time, and of a panel: 16 KiB, L1 being 48
  static constexpr int kFewRows = 64;  // for which a panel has half of them, and A stays in L1
  // Rows of activations that are rounded where weights are integer codes: with DeepSeek-V2-Lite's
  // widths 16 rows take 9 to 19% less forward that way, 24 at most 8% less, 32 9 to 20% more.
  static constexpr int kRoundedRows = 20;

  // As gemm in ops/gemm.h, for rows that do not go straight over the blocks.
  template <class F, Axis axis, class W>
  static void gemm(const Rows& a, int m, const W* w, float* const* c, int ldc, int terms, int out0,
                   int out1, Scratch& scratch) {
    using Job = Unpacking<F, axis>;
    constexpr int kWidth = kVectors * kLanes;
    const int valid = axis == Axis::k ? w[0].k : w[0].n;
    const int sum = round_up(valid, kLanes);
    // Along k long runs of one tile's rows, so that the weights are read in their addresses' order:
    // four rows of DeepSeek-V3's widths take 2 to 5% less time.
    const int run =
        axis == Axis::k && m <= kTileRows ? kABudget / (2 * m) / kDepth * kDepth : kDepth;
    const int depth = min(sum, run);
    const int most = m <= kFewRows ? kDepth / 2 : kDepth;  // of a panel
    const int pieces = a_pieces(a.dtype);
    auto* const pa = reinterpret_cast<act_t*>(scratch.a);
    auto* const panels = reinterpret_cast<act_t*>(scratch.panel);

    const auto panel_depth = [&](const PanelAt& p) {
      return min(most, min(depth, sum - p.s0) - p.sum);
    };
    const auto vectors = [&](const PanelAt& p) {
      return min(kVectors, div_up(out1 - p.output, kLanes));
    };
    const auto behind = [&](PanelAt p) {
      p.sum += most;
      if (p.sum < min(depth, sum - p.s0)) return p;
      p.sum = 0;
      p.output += kWidth;
      if (p.output < out1) return p;
      p.output = out0;
      if (++p.term < terms) return p;
      p.term = 0;
      if (++p.piece < pieces) return p;
      p.piece = 0;
      p.s0 += depth;
      return p;
    };
    const auto unpacking = [&](const PanelAt& p, int parity) {
      act_t* const to = panels + parity * kDepth * kWidth;
      if constexpr (std::is_same_v<W, RowMajor>) {
        return Job(w[p.term], p.output, vectors(p), p.s0 + p.sum, panel_depth(p), to,
                   scratch.blocks);
      } else {
        return Job(w[p.term], p.output, vectors(p), p.s0 + p.sum, panel_depth(p), to);
      }
    };

    TileUnit unit;
    PanelAt now{0, 0, 0, out0, 0};
    unpacking(now, 0).finish();
    for (int parity = 0; now.s0 < sum; parity ^= 1) {
      const int count = div_up(m, kTileRows);
      const TileShape x{div_up(m, count),
                        count,
                        vectors(now),
                        div_up(panel_depth(now), kStepColumns),
                        std::int64_t{kTileBytes} * m,
                        std::int64_t{4} * ldc};
      if (now.term == 0 && now.output == out0 && now.sum == 0) {
        const int length = min(depth, sum - now.s0);
        pack_a<axis>(a, now.piece, m, now.s0, min(length, valid - now.s0),
                     round_up(length, kStepColumns), pa, kStepColumns, kStepColumns * m);
      }
      const PanelAt next = behind(now);
      Job job;
      if (next.s0 < sum) {
        job = unpacking(next, parity ^ 1);
        const PanelAt then = behind(next);
        if (then.s0 < sum) job.ahead(w[then.term], then.output, then.s0 + then.sum);
      }
      job.spread(steps_of(x));
      unit.configure(x.rows);
      const act_t* const panel = panels + parity * kDepth * kWidth;
      stored(panel);
      multiply(x, pa + std::int64_t{now.sum} * m, panel, c[now.term] + (now.output - out0), job);
      job.finish();
      now = next;
    }
    scratch.ran = kName;
  }

 private:
  template <class Between>
  static void multiply(const TileShape& x, const act_t* a, const act_t* panel, float* c,
                       Between& between) {
    const auto* const from = reinterpret_cast<const std::byte*>(a);
    const auto* const b = reinterpret_cast<const std::byte*>(panel);
    auto* const to = reinterpret_cast<std::byte*>(c);
    if (x.vectors == 2) {
      tile_blocks<2>(x, from, b, to, between);
    } else {
      tile_blocks<1>(x, from, b, to, between);
    }
  }
};

}  // namespace
}  // namespace kt
