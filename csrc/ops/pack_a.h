// Activations into a tile's operand type: a block of `length` columns of m rows, the columns past
// `valid` zero. Row i of the block starts at out + i * lda.
#pragma once

namespace kt {
namespace {

// One element at a time, columns of a stored row becoming a column of the block: the operand of a
// weight gradient, small beside its product.
template <class Store>
void pack_a_transposed(const Rows& a, int m, int s0, int valid, int length, Store store) {
  for (int s = 0; s < length; ++s) {
    const std::byte* const row = s < valid ? a.row(s0 + s) : nullptr;
    const float scale = a.scale != nullptr && s < valid ? a.scale[s0 + s] : 1.0F;
    for (int i = 0; i < m; ++i) {
      std::uint16_t bits = 0;
      if (row != nullptr) __builtin_memcpy(&bits, row + 2 * static_cast<std::int64_t>(i), 2);
      store(i, s, scale * __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16));
    }
  }
}

template <class I>
void pack_a_float(const Rows& a, int m, int s0, int valid, int length, float* out, int lda) {
  if (a.transposed) {
    pack_a_transposed(a, m, s0, valid, length,
                      [out, lda](int i, int s, float x) { out[i * lda + s] = x; });
    return;
  }
  for (int i = 0; i < m; ++i, out += lda) {
    const auto* const row = reinterpret_cast<const act_t*>(a.row(i)) + s0;
    int j = 0;
    for (; j + I::kWidth <= valid; j += I::kWidth) I::store(out + j, I::load(row + j));
    for (; j < valid; ++j) {
      out[j] = __builtin_bit_cast(float, static_cast<std::uint32_t>(row[j].bits) << 16);
    }
    for (; j < length; ++j) out[j] = 0.0F;
  }
}

}  // namespace
}  // namespace kt
