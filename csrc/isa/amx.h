// AMX: TDPBF16PS multiplies up to 16 rows of 32 columns of A by as much of a panel. AVX-512's
// panels are what the tile unit takes for B: a row of a tile is a pair of 16 outputs. Elementwise
// operations and products of few rows are those of AVX-512 with BF16, and with VBMI for integer
// codes; of many rows those multiply activations in bf16, too (amx_codes.h). (Intel SDM vol. 2,
// "TDPBF16PS": even and odd columns are summed apart, sums rounded to nearest even, denormals
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
  static constexpr int kDepth = kDepthOfA;
  static constexpr int kFewRows = 64;  // for which a panel has half of them, and A stays in L1
  // Groups of columns whose sums are scaled along k, of kFewRows rows at most: with groups of 32
  // scaled values take a tenth less, with 64 as long; of 128 rows with groups of 128 5% less.
  static constexpr int kLeastGroup = 64;

  // Up to how many rows of activations are rounded where weights are integer codes. With 8 experts
  // of DeepSeek-V2-Lite's widths the time as they lie over that of rounded ones, forward /
  // backward (a tile of 16 rows is full, and VNNI's time grows with the rows):
  //
  //   rows               8            12            16            20
  //   INT4    0.96 / 1.04   0.85 / 0.99   0.79 / 0.94   0.73 / 0.85
  //   INT8    1.08 / 1.05   1.03 / 1.03   0.96 / 0.97   0.95 / 0.90
  //   KGroup  0.99 / 1.26   0.91 / 1.15   0.82 / 1.13   0.75 / 0.87
  //
  // Of two that take about as long the one that does not round is taken. With values in place of
  // codes, as smaller groups have them along k, 16 rounded rows took 9 to 19% less, 24 at most 8%
  // less, 32 9 to 20% more.
  template <class F, Axis axis>
  static int rounded_rows(const Shape& w) {
    if constexpr (!GroupedCodes<F>) return axis == Axis::k ? 8 : 12;
    if (axis == Axis::n) return 16;
    return w.group < kLeastGroup ? 20 : 8;
  }

  // As gemm in ops/gemm.h, for rows that do not go straight over the blocks.
  template <class F, Axis axis, class W>
  static void gemm(const Rows& a, int m, const W* w, float* const* c, int ldc, int terms, int out0,
                   int out1, Scratch& scratch) {
    if constexpr (std::is_same_v<W, RowMajor>) {
      products<F, axis, UnpackedRows<F, axis>>(a, m, w, c, ldc, terms, out0, out1, scratch);
    } else if constexpr (RowScaledCodes<F> || (GroupedCodes<F> && axis == Axis::n)) {
      products<F, axis, CodesOf<F, axis>>(a, m, w, c, ldc, terms, out0, out1, scratch);
    } else {
      if constexpr (GroupedCodes<F>) {
        if (m <= kFewRows && w[0].group >= kLeastGroup) {
          return products<F, axis, CodesOf<F, axis>>(a, m, w, c, ldc, terms, out0, out1, scratch);
        }
      }
      products<F, axis, ValuesOf<F, axis>>(a, m, w, c, ldc, terms, out0, out1, scratch);
    }
  }

 private:
  // All panels, one after the other, each unpacked by `Job` beside the products of the one before.
  // Along k sums of codes lie in a place of their own until they are scaled.
  template <class F, Axis axis, class Job, class W>
  static void products(const Rows& a, int m, const W* w, float* const* c, int ldc, int terms,
                       int out0, int out1, Scratch& scratch) {
    constexpr bool kCodes = Job::kCodes;
    constexpr bool kSums = kCodes && axis == Axis::k;
    constexpr bool kGrouped = kSums && GroupedCodes<F>;
    constexpr bool kScalesA = kCodes && axis == Axis::n && RowScaledCodes<F>;
    constexpr int kWidth = kVectors * kLanes;
    const int valid = axis == Axis::k ? w[0].k : w[0].n;
    const int sum = round_up(valid, kLanes);
    // Along k long runs of one tile's rows, so that the weights are read in their addresses' order:
    // four rows of DeepSeek-V3's widths take 2 to 5% less time.
    const int run =
        axis == Axis::k && m <= kTileRows ? kABudget / (2 * m) / kDepth * kDepth : kDepth;
    const int depth = min(sum, run);
    int most = m <= kFewRows ? kDepth / 2 : kDepth;        // of a panel
    if constexpr (kGrouped) most = min(most, w[0].group);  // 64 or 128, as Shape's groups are
    const int pieces = kCodes ? 1 : a_pieces(a.dtype);
    auto* const pa = reinterpret_cast<act_t*>(scratch.a);
    auto* const panels = reinterpret_cast<act_t*>(scratch.panel);
    const int ld = kGrouped ? kWidth : kSums ? c_stride(out1 - out0) : ldc;

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
      return Job(w[p.term], p.output, vectors(p), p.s0 + p.sum, panel_depth(p), to, scratch.blocks);
    };
    const auto pack = [&](const PanelAt& p) {
      const int length = min(depth, sum - p.s0);
      const int have = min(length, valid - p.s0);
      const int whole = round_up(length, kStepColumns);
      if constexpr (kCodes) {
        pack_for_codes<F, axis>(a, w[p.term], m, p.s0, have, whole, pa, kStepColumns,
                                kStepColumns * m);
      } else {
        pack_a<axis>(a, p.piece, m, p.s0, have, whole, pa, kStepColumns, kStepColumns * m);
      }
    };

    TileUnit unit;
    PanelAt now{0, 0, 0, out0, 0};
    unpacking(now, 0).finish();
    for (int parity = 0; now.s0 < sum; parity ^= 1) {
      const int count = div_up(m, kTileRows);
      const bool first = now.s0 == 0 && now.piece == 0 && now.sum == 0;
      const TileShape x{div_up(m, count),
                        count,
                        vectors(now),
                        div_up(panel_depth(now), kStepColumns),
                        std::int64_t{kTileBytes} * m,
                        std::int64_t{4} * ld,
                        kGrouped || (kSums && first)};
      // Scales that A carries are those of one matrix.
      if ((now.term == 0 || kScalesA) && now.output == out0 && now.sum == 0) pack(now);
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
      float* const out = c[now.term] + (now.output - out0);
      float* const to = kGrouped ? scratch.sums[0]
                        : kSums  ? scratch.sums[now.term] + (now.output - out0)
                                 : out;
      multiply(x, pa + std::int64_t{now.sum} * m, panel, to, job);
      job.finish();
      if constexpr (kSums) {
        if (kGrouped || (now.piece == pieces - 1 && now.s0 + now.sum + most >= sum)) {
          add_scaled<F>(m, w[now.term], now.output, now.s0 + now.sum, x.vectors, to, ld, out, ldc);
        }
      }
      now = next;
    }
    scratch.ran = kName;
  }

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
