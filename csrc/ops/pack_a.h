// Activations into a tile's operand type: a block of `length` columns of m rows, the columns past
// `valid` zero. Row i of the block starts at out + i * lda.
#pragma once

namespace kt {
namespace {

inline float act_at(const std::byte* p) {
  std::uint16_t bits = 0;
  __builtin_memcpy(&bits, p, 2);
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
}

// For a tile whose operand is fp32.
template <class I>
void pack_a_float(const Rows& a, int m, int s0, int valid, int length, float* out, int lda) {
  for (int i = 0; i < m; ++i, out += lda) {
    int j = 0;
    if (a.dtype == DType::float32) {
      const auto* const row = reinterpret_cast<const float*>(a.row(i)) + s0;
      for (; j < valid; ++j) out[j] = row[j];
    } else {
      const auto* const row = reinterpret_cast<const act_t*>(a.row(i)) + s0;
      for (; j + I::kWidth <= valid; j += I::kWidth) I::store(out + j, I::load(row + j));
      for (; j < valid; ++j) out[j] = act_at(reinterpret_cast<const std::byte*>(row + j));
    }
    for (; j < length; ++j) out[j] = 0.0F;
  }
}

}  // namespace
}  // namespace kt
