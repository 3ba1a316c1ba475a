// Conversions and sums over rows, written once over an instruction set's vector type. Scratch rows
// are padded to kLanes columns, so only rows in the caller's memory have tails.
#pragma once

namespace kt {
namespace {

template <class I>
void scatter_add(const float* c, int ldc, int m, int n, const std::int32_t* index,
                 const float* scale, float* out, std::int64_t stride) {
  for (int i = 0; i < m; ++i) {
    const float* const from = c + static_cast<std::int64_t>(i) * ldc;
    float* const to = out + index[i] * stride;
    const auto s = I::set1(scale != nullptr ? scale[i] : 1.0F);
    for (int j = 0; j < n; j += I::kWidth) {
      I::store(to + j, I::load(to + j) + s * I::load(from + j));
    }
  }
}

template <class I>
void store_rows(const float* c, int ldc, int m, int n, float scale, float* out,
                std::int64_t stride) {
  const auto s = I::set1(scale);
  for (int i = 0; i < m; ++i) {
    const float* const from = c + static_cast<std::int64_t>(i) * ldc;
    float* const to = out + i * stride;
    for (int j = 0; j < n; j += I::kWidth) I::store(to + j, s * I::load(from + j));
  }
}

inline float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000U) << 16;
  const std::uint32_t rest = h & 0x7fffU;
  // Exponent and mantissa moved to float's place are off by a factor of 2^112, which a product
  // mends exactly, subnormals included; infinities and NaN keep float's all-ones exponent.
  const std::uint32_t moved = rest << 13;
  const float scaled = __builtin_bit_cast(float, moved) * 0x1p112F;
  std::uint32_t bits = __builtin_bit_cast(std::uint32_t, scaled);
  if (rest >= 0x7c00U) bits = moved | 0x7f800000U;
  return __builtin_bit_cast(float, bits | sign);
}

inline std::uint16_t float_to_half(float f) {
  const auto bits = __builtin_bit_cast(std::uint32_t, f);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t rest = bits & 0x7fffffffU;
  std::uint32_t half = 0;
  if (rest > 0x7f800000U) {
    half = 0x7e00U;  // NaN
  } else if (rest >= 0x477ff000U) {
    half = 0x7c00U;  // rounds past 65504
  } else if (rest >= 0x38800000U) {
    half = (rest - 0x38000000U + 0xfffU + ((rest >> 13) & 1U)) >> 13;
  } else {
    // Subnormal: adding 2^-1 * ulp-aligned magic leaves the rounded mantissa in the low bits.
    const float magic = 0.5F;
    const float sum = __builtin_bit_cast(float, rest) + magic;
    half = __builtin_bit_cast(std::uint32_t, sum) - __builtin_bit_cast(std::uint32_t, magic);
  }
  return static_cast<std::uint16_t>(half | sign);
}

template <class I>
void to_act(const std::byte* in, DType dtype, std::int64_t n, act_t* out) {
  alignas(64) float block[kLanes] = {};
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const int count = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
    if (dtype == DType::bfloat16) {
      __builtin_memcpy(out + i, in + 2 * i, 2 * static_cast<std::size_t>(count));
      continue;
    }
    if (dtype == DType::float32) {
      __builtin_memcpy(block, in + 4 * i, 4 * static_cast<std::size_t>(count));
    } else {
      std::uint16_t half[kLanes] = {};
      __builtin_memcpy(half, in + 2 * i, 2 * static_cast<std::size_t>(count));
      for (int j = 0; j < kLanes; ++j) block[j] = half_to_float(half[j]);
    }
    act_t rounded[kLanes];
    for (int j = 0; j < kLanes; j += I::kWidth) I::store(rounded + j, I::load(block + j));
    __builtin_memcpy(out + i, rounded, 2 * static_cast<std::size_t>(count));
  }
}

// `count` sums, at most kLanes.
template <class I>
void sum_block(const float* in, int parts, std::int64_t part_stride, int count, DType dtype,
               std::byte* out) {
  const auto size = static_cast<std::size_t>(count);
  alignas(64) float block[kLanes] = {};
  __builtin_memcpy(block, in, 4 * size);
  for (int p = 1; p < parts; ++p) {
    for (int j = 0; j < count; ++j) block[j] += in[p * part_stride + j];
  }
  if (dtype == DType::float32) {
    __builtin_memcpy(out, block, 4 * size);
  } else if (dtype == DType::bfloat16) {
    act_t rounded[kLanes];
    for (int j = 0; j < kLanes; j += I::kWidth) I::store(rounded + j, I::load(block + j));
    __builtin_memcpy(out, rounded, 2 * size);
  } else {
    std::uint16_t half[kLanes];
    for (int j = 0; j < kLanes; ++j) half[j] = float_to_half(block[j]);
    __builtin_memcpy(out, half, 2 * size);
  }
}

template <class I>
void sum_parts(const float* in, int parts, std::int64_t part_stride, std::int64_t n, DType dtype,
               std::byte* out) {
  const int size = dtype == DType::float32 ? 4 : 2;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {  // a count that the compiler knows: registers, not calls
    sum_block<I>(in + i, parts, part_stride, kLanes, dtype, out + i * size);
  }
  if (i < n) {
    sum_block<I>(in + i, parts, part_stride, static_cast<int>(n - i), dtype, out + i * size);
  }
}

}  // namespace
}  // namespace kt
