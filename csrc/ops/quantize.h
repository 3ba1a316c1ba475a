// Activations into integer operands: rows of A rounded to codes -127 .. 127 with a scale for every
// granule of columns, so that an outlier spoils the rounding of its neighbours only.
#pragma once

namespace kt {
namespace {

// Columns of a panel of codes: 64 outputs of 128 sums are 8 KiB, or 16 of words.
constexpr int kPanelDepth = 128;
// Columns of A in a block at most, so that scales and starts of a row's granules (16 columns at
// least) find room beside it.
constexpr int kMaxIntegerDepth = 4096;

// A block of A in an integer vocabulary T: row i is codes + i * lda, and in granule q its values
// are scale[q * m + i] * code. `start` is what the sum of products begins with: minus the weights'
// zero point times the sum of the codes.
template <class T>
struct IntegerRows {
  typename T::A* codes;
  int lda;
  float* scale;
  std::int32_t* start;
  int granule;

  // In memory for m rows of `depth` columns.
  IntegerRows(std::byte* memory, int m, int depth, int columns)
      : codes(reinterpret_cast<typename T::A*>(memory)),
        lda(a_stride<T>(depth)),
        scale(reinterpret_cast<float*>(
            memory + round_up(m * lda * static_cast<int>(sizeof(typename T::A)), 64))),
        start(reinterpret_cast<std::int32_t*>(scale) + m * div_up(depth, columns)),
        granule(columns) {}
};

// The largest magnitude of `count` values, and 0 (or NaN, if one is not finite).
struct Reach {
  float most;
  float probe;
};

template <class I>
Reach reach_of(const FloatRow& row, int from, int count, const float* factor) {
  auto most = I::set1(0.0F);
  auto probe = I::set1(0.0F);
  for (int j = 0; j < count; j += I::kWidth) {
    auto v = row.at<I>(from + j, from + count);
    if (factor != nullptr) v = v * I::load(factor + j);
    most = I::maximum(most, I::maximum(v, -v));
    probe = probe + v * I::set1(0.0F);
  }
  alignas(64) float lanes[I::kWidth];
  I::store(lanes, most);
  float largest = 0.0F;
  for (const float x : lanes) largest = x > largest ? x : largest;
  return {largest, I::sum(probe)};
}

// The first of `rows` rows of k weights that holds NaN or infinity; rows: none does.
template <class I>
int first_not_finite(const Rows& source, int rows, int k) {
  for (int r = 0; r < rows; ++r) {
    const Reach reach = reach_of<I>({source.row(r), source.dtype}, 0, k, nullptr);
    if (reach.probe != 0.0F) return r;
  }
  return rows;
}

// Columns [s0, s0 + length) of m rows, those past `valid` zero. factor[j], if given, multiplies
// column s0 + j before it is rounded.
template <class T, Axis axis>
void quantize_rows(const Rows& a, int m, int s0, int valid, int length, int zero,
                   const float* factor, const IntegerRows<T>& out) {
  using I = typename T::Vector;
  const int granule = out.granule;
  for (int i = 0; i < m; ++i) {
    const FloatRow row{a.row(i), a.dtype};
    typename T::A* to = out.codes + static_cast<std::int64_t>(i) * out.lda;
    for (int q = 0; q * granule < length; ++q) {
      const int first = q * granule;
      const int end = s0 + min(valid, first + granule);
      const float* const f = factor != nullptr ? factor + first : nullptr;
      const Reach reach = reach_of<I>(row, s0 + first, end - (s0 + first), f);
      const int count = min(length - first, granule);
      // Zeros; so small that 127 / most would overflow; or not finite, as the outputs are to be.
      if (!(reach.most > 4e-37F) || reach.probe != 0.0F) {
        __builtin_memset(to + first, 0, static_cast<std::size_t>(count) * sizeof(typename T::A));
        out.scale[q * m + i] = reach.probe;
        out.start[q * m + i] = 0;
        continue;
      }
      const auto inverse = I::set1(127.0F / reach.most);
      auto sum = I::set1(0.0F);
      for (int j = first; j < first + count; j += kLanes) {
        alignas(64) float codes[kLanes];
        for (int v = 0; v < kLanes; v += I::kWidth) {
          auto x = row.at<I>(s0 + j + v, end);
          if (factor != nullptr) x = x * I::load(factor + j + v);
          const auto code = nearest<I>(x * inverse);
          sum = sum + code;
          I::store(codes + v, code);
        }
        T::template store<axis>(to + j, codes);
      }
      out.scale[q * m + i] = reach.most * (1.0F / 127.0F);
      out.start[q * m + i] = -zero * static_cast<std::int32_t>(I::sum(sum));
    }
  }
}

}  // namespace
}  // namespace kt
