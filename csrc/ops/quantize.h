// Activations into integer operands: rows of A rounded to codes -127 .. 127 with a scale for every
// granule of columns, so that an outlier spoils the rounding of its neighbours only.
#pragma once

namespace kt {
namespace {

// A row of A rounded in an integer vocabulary T: codes of `columns` values (a multiple of kLanes),
// then each granule's scale and start. Its values are scale * code; `start` is what a sum of
// products begins with: minus the weights' zero point times the sum of the granule's codes. Where
// T's products of few rows have several sums for an output, each has its share: T::kStarts.
template <class T>
struct RoundedRow {
  typename T::A* codes;
  float* scale;
  std::int32_t* start;

  RoundedRow(std::byte* memory, int columns, int granule)
      : codes(reinterpret_cast<typename T::A*>(memory)),
        scale(reinterpret_cast<float*>(memory + code_bytes(columns))),
        start(reinterpret_cast<std::int32_t*>(scale + div_up(columns, granule))) {}

  static int code_bytes(int columns) {
    return round_up(columns * static_cast<int>(sizeof(typename T::A)), kLine);
  }
  static std::int64_t bytes(int columns, int granule) {
    return code_bytes(columns) + round_up(div_up(columns, granule) * 4 * (1 + T::kStarts), kLine);
  }
  static constexpr int kLine = 64;
};

// A block of rounded rows: row i is codes + i * lda, and in granule q its scale and start are
// [q * m + i]; where there are few, its shares of the start T::kStarts from [(q * m + i) *
// T::kStarts] on. Of two short sums the first begins with the share of both.
template <class T>
struct IntegerRows {
  typename T::A* codes;
  int lda;
  float* scale;
  std::int32_t* start;
  std::int32_t* shares;
  int granule;

  // In memory for m rows of `depth` columns.
  IntegerRows(std::byte* memory, int m, int depth, int columns)
      : codes(reinterpret_cast<typename T::A*>(memory)),
        lda(a_stride<T>(depth)),
        scale(reinterpret_cast<float*>(
            memory + round_up(m * lda * static_cast<int>(sizeof(typename T::A)), 64))),
        start(reinterpret_cast<std::int32_t*>(scale) + m * div_up(depth, columns)),
        shares(start + m * div_up(depth, columns)),
        granule(columns) {}

  // Columns [s0, s0 + length) of m rounded rows of `columns`; s0 is a multiple of the granule.
  void take(const Rows& a, int m, int columns, int s0, int length) const {
    for (int i = 0; i < m; ++i) {
      const RoundedRow<T> row(const_cast<std::byte*>(a.row(i)), columns, granule);
      __builtin_memcpy(codes + static_cast<std::int64_t>(i) * lda, row.codes + s0,
                       static_cast<std::size_t>(length) * sizeof(typename T::A));
      for (int q = 0; q * granule < length; ++q) {
        const int from = s0 / granule + q;
        const int to = q * m + i;
        scale[to] = row.scale[from];
        const std::int32_t* const own = row.start + from * T::kStarts;
        start[to] = own[0];
        for (int share = 1; share < T::kStarts; ++share) start[to] += own[share];
        if (T::kStarts > 1 && m <= T::kDirectRows) {
          for (int share = 0; share < T::kStarts; ++share) {
            shares[to * T::kStarts + share] = HasShortSums<T> ? own[share] & 0xffff : own[share];
          }
        }
      }
    }
  }
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

// `columns` values to codes, those from `valid` on zero; factor[j], if given, multiplies the j-th.
template <class T, Axis axis>
void round_row(const FloatRow& row, int valid, int columns, int granule, int zero,
               const float* factor, const RoundedRow<T>& out) {
  using I = typename T::Vector;
  for (int q = 0, first = 0; first < columns; ++q, first += granule) {
    const int end = min(valid, first + granule);
    const float* const f = factor != nullptr ? factor + first : nullptr;
    const float most = largest_of<I>(row, first, end - first, f);
    const int last = min(columns, first + granule);
    // Zeros; so small that 127 / most would overflow; or not finite, as the outputs are to be.
    if (!(most > 4e-37F) || !is_finite(most)) {
      __builtin_memset(out.codes + first, 0,
                       static_cast<std::size_t>(last - first) * sizeof(typename T::A));
      out.scale[q] = is_finite(most) ? 0.0F : __builtin_nanf("");
      __builtin_memset(out.start + q * T::kStarts, 0, T::kStarts * sizeof(std::int32_t));
      continue;
    }
    const auto inverse = I::set1(127.0F / most);
    auto sum = T::set1(0);
    for (int j = first; j < last; j += kLanes) {
      alignas(64) float values[kLanes];
      for (int v = 0; v < kLanes; v += I::kWidth) {
        auto x = row.at<I>(j + v, end);
        if (factor != nullptr) x = x * I::load(factor + j + v);
        I::store(values + v, x * inverse);
      }
      sum = T::add(sum, T::template round<axis>(values, out.codes + j));
    }
    out.scale[q] = most * (1.0F / 127.0F);
    T::starts(sum, -zero, out.start + q * T::kStarts);
  }
}

}  // namespace
}  // namespace kt
