// Activations into integer operands: rows of A rounded to codes -127 .. 127 with a scale for every
// granule of columns, so that an outlier spoils the rounding of its neighbours only.
#pragma once

namespace kt {
namespace {

// Columns of a panel of codes: 64 outputs of 128 sums are 8 KiB, or 16 of words.
constexpr int kPanelDepth = 128;

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

// The largest magnitude of `count` values; NaN, if one is, else infinity, if one is.
template <class I>
float largest_of(const FloatRow& row, int from, int count, const float* factor) {
  auto most = I::set1(0.0F);
  for (int j = 0; j < count; j += I::kWidth) {
    auto v = row.at<I>(from + j, from + count);
    if (factor != nullptr) v = v * I::load(factor + j);
    most = I::larger(most, v);
  }
  return I::largest(most);
}

inline bool is_finite(float x) {
  return (__builtin_bit_cast(std::uint32_t, x) & 0x7f800000U) != 0x7f800000U;
}

// The first of `rows` rows of k weights that holds NaN or infinity; rows: none does.
template <class I>
int first_not_finite(const Rows& source, int rows, int k) {
  for (int r = 0; r < rows; ++r) {
    if (!is_finite(largest_of<I>({source.row(r), source.dtype}, 0, k, nullptr))) return r;
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
      const float most = largest_of<I>(row, s0 + first, end - (s0 + first), f);
      const int count = min(length - first, granule);
      // Zeros; so small that 127 / most would overflow; or not finite, as the outputs are to be.
      if (!(most > 4e-37F) || !is_finite(most)) {
        __builtin_memset(to + first, 0, static_cast<std::size_t>(count) * sizeof(typename T::A));
        out.scale[q * m + i] = is_finite(most) ? 0.0F : __builtin_nanf("");
        out.start[q * m + i] = 0;
        continue;
      }
      const auto inverse = I::set1(127.0F / most);
      auto sum = T::set1(0);
      for (int j = first; j < first + count; j += kLanes) {
        alignas(64) float values[kLanes];
        for (int v = 0; v < kLanes; v += I::kWidth) {
          auto x = row.at<I>(s0 + j + v, end);
          if (factor != nullptr) x = x * I::load(factor + j + v);
          I::store(values + v, x * inverse);
        }
        sum = T::add(sum, T::template round<axis>(values, to + j));
      }
      out.scale[q * m + i] = most * (1.0F / 127.0F);
      out.start[q * m + i] = -zero * T::sum(sum);
    }
  }
}

}  // namespace
}  // namespace kt
