// Rows of bf16 or fp32 values on their way to integer codes.
#pragma once

namespace kt {
namespace {

// A row read in vectors; past its end they are zero.
struct FloatRow {
  const std::byte* data;
  DType dtype;

  template <class I>
  [[nodiscard]] typename I::F at(int j, int end) const {
    if (j + I::kWidth <= end) {
      if (dtype == DType::float32) return I::load(reinterpret_cast<const float*>(data) + j);
      return I::load(reinterpret_cast<const act_t*>(data) + j);
    }
    alignas(64) float values[kLanes] = {};
    for (int i = j; i < end; ++i) {
      values[i - j] = dtype == DType::float32 ? reinterpret_cast<const float*>(data)[i]
                                              : act_at(data + std::int64_t{2} * i);
    }
    return I::load(values);
  }
};

// To the nearest integer, ties to even, for |x| up to 2^22.
template <class I>
typename I::F nearest(typename I::F x) {
  const auto magic = I::set1(12582912.0F);  // 1.5 * 2^23
  return (x + magic) - magic;
}

template <class I>
typename I::F to_codes(typename I::F w, typename I::F inverse, float low, float high) {
  // Clipped first: the quotient of an outlier may exceed 2^22.
  return nearest<I>(I::minimum(I::maximum(w * inverse, I::set1(low)), I::set1(high)));
}

}  // namespace
}  // namespace kt
