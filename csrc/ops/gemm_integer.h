// C += A W' or A W for the formats of integer codes: A has been rounded to codes of 8 bits
// (quantize.h), a panel of codes is unpacked into L1, and every row of A runs over it before the
// next panel (integer_tile.h). The loop nest is gemm.h's.
#pragma once

namespace kt {
namespace {

// The vocabulary of an instruction set for a format along an axis: one for codes of 4 bits where it
// has one and the panel's are such.
template <class I, class F, Axis axis>
struct IntegerOf {
  using Type = typename I::Integer;
};
template <class I, class F, Axis axis>
  requires(F::template panel_bits<axis>() == 4) && requires { typename I::Integer4; }
struct IntegerOf<I, F, axis> {
  using Type = typename I::Integer4;
};

// Few rows straight from the blocks, columns of A's block from `column` on.
template <class T, class F, Axis axis, int rows = T::kDirectRows>
void direct_integer(const Packed& w, int m, int o, int vectors, int s, int depth,
                    const IntegerRows<T>& a, int column, const std::byte* ahead, float* c,
                    int ldc) {
  if constexpr (rows > 0) {
    if (m < rows) {
      return direct_integer<T, F, axis, rows - 1>(w, m, o, vectors, s, depth, a, column, ahead, c,
                                                  ldc);
    }
    if constexpr (axis == Axis::k) {
      T::template direct_k<F, rows>(w, o, s, depth, a, column, c, ldc);
    } else {
      T::template direct_n<F, rows>(w, o, vectors, s, depth, a, column, ahead, c, ldc);
    }
  }
}

// All rows of A over one panel, columns of its block from `column` on.
template <class T>
void integer_tiles(int m, int vectors, const IntegerRows<T>& a, int column,
                   const typename T::Panel* panel, int depth, const float* w_scale, float* c,
                   int ldc, Ahead ahead) {
  const int count = div_up(m, T::kRows);
  const int first = column / a.granule * m;
  for (int t = 0; t < count; ++t) {
    ahead.fetch(t, count);
    const TileOfRows tile = tile_of_rows(m, count, t);
    const std::int64_t i = tile.first;
    integer_tile_rows<T>(tile.rows, vectors,
                         {a.codes + i * a.lda + column, a.lda, a.scale + first + i,
                          a.start + first + i, m, a.granule},
                         panel, depth, w_scale, c + i * ldc, ldc);
  }
}

// Outputs [o, o + 16 * vectors), sums [s, s + depth): columns of A's block from `column` on. What
// to fetch meanwhile, as large a panel, begins at `next`.
template <class T, class F, Axis axis>
void integer_multiply(const Packed& w, int m, int o, int vectors, int s, int depth, Corner next,
                      const IntegerRows<T>& a, int column, float* c, int ldc, Scratch& scratch) {
  using I = typename T::Vector;
  const std::int64_t group = F::Block::group_bytes(w.k);
  const int row = axis == Axis::k ? next.output : next.sum;
  const int from = axis == Axis::k ? next.sum : next.output;
  const std::byte* const ahead = F::Block::span(w.data + row / kLanes * group, from);
  if (m <= T::kDirectRows) {
    direct_integer<T, F, axis>(w, m, o, vectors, s, depth, a, column, ahead, c, ldc);
    return;
  }
  alignas(64) float scales[T::kVectors * kLanes];
  const float* w_scale = nullptr;
  if constexpr (axis == Axis::k) {
    for (int v = 0; v < vectors; ++v) {
      F::template output_scales<I>(w, o + v * kLanes, s, scales + v * kLanes);
    }
    w_scale = scales;
  }
  auto* const panel = reinterpret_cast<typename T::Panel*>(scratch.panel);
  if constexpr (axis == Axis::k) {
    for (int v = 0; v < vectors; ++v) {
      T::template unpack_k<F>(w.data + (o / kLanes + v) * group, s, depth,
                              panel + v * T::panel_size(depth));
    }
  } else {
    for (int r = 0; r < depth; r += kLanes) {
      const std::byte* const rows = w.data + (s + r) / kLanes * group;
      typename F::template Decoder<T> decode(w, s + r, o);
      for (int v = 0, made = o; v < vectors; ++v) {
        const int output = o + v * kLanes;
        if (!F::same_decoder(w, made, output)) decode = {w, s + r, made = output};
        T::template unpack_n<F>(rows, output, decode,
                                panel + v * T::panel_size(depth) + T::panel_size(r));
      }
    }
  }
  const int rows = axis == Axis::k ? vectors : div_up(depth, kLanes);
  const int columns = axis == Axis::k ? div_up(depth, kLanes) : vectors;
  integer_tiles<T>(m, vectors, a, column, panel, depth, w_scale, c, ldc,
                   {ahead, group, rows, columns * F::Block::kSpan});
}

// What the products with w sum over, as the format stores it, and the columns of A that share a
// scale.
template <Axis axis>
int padded_sum(const Shape& w) {
  return round_up(axis == Axis::k ? w.k : w.n, kLanes);
}
template <class F, Axis axis>
int granule_of(const Shape& w, int wanted) {
  return F::template panel_depth<axis>(w, wanted);
}

template <class I, class F, Axis axis>
std::int64_t rounded_bytes(const Shape& w, int granule) {
  return RoundedRow<typename IntegerOf<I, F, axis>::Type>::bytes(padded_sum<axis>(w),
                                                                 granule_of<F, axis>(w, granule));
}

template <class I, class F, Axis axis>
void round_rows(const Rows& a, int m, const Packed& w, std::byte* out) {
  using T = typename IntegerOf<I, F, axis>::Type;
  const int sum = padded_sum<axis>(w);
  const int granule = granule_of<F, axis>(w, a.granule);
  const float* const factor = axis == Axis::n ? F::sum_scales(w) : nullptr;
  for (int i = 0; i < m; ++i, out += RoundedRow<T>::bytes(sum, granule)) {
    round_row<T, axis>({a.row(i), a.dtype}, axis == Axis::k ? w.k : w.n, sum, granule,
                       F::template zero<axis>(), factor, {out, sum, granule});
  }
}

constexpr int kAheadColumns = 256;
constexpr int kDirectColumns = 128;  // of few rows along n; they may share a scale

template <class I, class F, Axis axis>
void gemm_integer(const Rows& a, int m, const Packed* w, float* const* c, int ldc, int terms,
                  int out0, int out1, Scratch& scratch) {
  using T = typename IntegerOf<I, F, axis>::Type;
  const int sum = padded_sum<axis>(w[0]);
  // Along k a long run keeps the weights' lines in address order; along n one panel does. Scales
  // and starts take three quarters of the codes' bytes at most (granules of 32) and lie behind
  // them.
  const int fit =
      kABudget / (m * static_cast<int>(sizeof(typename T::A))) / T::kPanelDepth * T::kPanelDepth;
  const int depth = min(sum, axis == Axis::k ? max(T::kPanelDepth, fit) : T::kPanelDepth);
  // Few rows take the weights straight from memory: along k one group of rows, which is contiguous,
  // all of it at once.
  const bool few = m <= T::kDirectRows;
  const int step = !few ? T::kVectors : axis == Axis::k ? 1 : kDirectColumns / kLanes;
  const int panel =
      few && axis == Axis::k ? depth : F::template panel_depth<axis>(w[0], T::kPanelDepth);

  // What is fetched ahead is the panel behind; of few rows, which take little time over a panel,
  // one 256 columns on: 16 or 32 KiB.
  const int width = round_up(out1 - out0, kLanes);
  const int ahead = few ? min(width, kAheadColumns) : step * kLanes;

  const IntegerRows<T> block(scratch.a, m, depth, granule_of<F, axis>(w[0], a.granule));
  for (int s0 = 0; s0 < sum; s0 += depth) {
    const int length = min(depth, sum - s0);
    block.take(a, m, sum, s0, length);
    for (int t = 0; t < terms; ++t) {
      for (int o = out0; o < out1; o += step * kLanes) {
        const int vectors = min(step, div_up(out1 - o, kLanes));
        for (int column = 0; column < length; column += panel) {
          Corner next{o, s0 + column + panel};
          if (column + panel >= length) next = {o + ahead, s0};
          if (next.output >= out1) next = {max(out0, next.output - width), s0 + depth};
          integer_multiply<T, F, axis>(w[t], m, o, vectors, s0 + column,
                                       min(panel, length - column), next, block, column,
                                       c[t] + (o - out0), ldc, scratch);
        }
      }
    }
  }
  scratch.ran = I::kName;
}

// Up to how many rows are rounded for products with weights of a shape: an instruction set with a
// loop nest of its own multiplies more as they lie.
template <class I, class F, Axis axis>
int rounded_rows(const Shape& w) {
  if constexpr (HasGemm<I, F, Packed>) {
    return I::template rounded_rows<F, axis>(w);
  } else {
    return kMaxRows;
  }
}

template <class I, class F, Axis axis>
void gemm_codes(const Rows& a, int m, const Packed* w, float* const* c, int ldc, int terms,
                int out0, int out1, Scratch& scratch) {
  if constexpr (HasGemm<I, F, Packed>) {
    if (a.dtype != DType::int8) {
      return I::template gemm<F, axis>(a, m, w, c, ldc, terms, out0, out1, scratch);
    }
  }
  gemm_integer<I, F, axis>(a, m, w, c, ldc, terms, out0, out1, scratch);
}

}  // namespace
}  // namespace kt
