// Integer codes of 8 or 4 bits in blocks, for the formats that quantize.
//
// Layout: as bf16's, blocks of 16 rows x 16 bytes (types.h), a row's 16 bytes being 16 columns of 8
// bits, or 32 of 4 bits: column c in the low half of byte c for c < 16, in the high half of byte
// c - 16 above. So a block of 4 bits unpacks to two of 8 bits by a mask and a shift.
//
//   group g of 16 rows, block b at (g * blocks + b) * 256      blocks: k padded to whole ones
//
// Codes are stored unsigned, the zero point (128 or 8) added: the unsigned operand of VPDPBUSD and
// TDPBSUD is then the weight, and the zero point times the sum of a row of A, one number per row,
// takes it away again.
#pragma once

namespace kt {
namespace {

template <int bits>
struct BlockCodes {
  static constexpr int kColumns = 128 / bits;  // of a block
  static constexpr int kZero = 1 << (bits - 1);

  static std::int64_t group_bytes(int k) { return std::int64_t{div_up(k, kColumns)} * kBlockBytes; }
  static std::size_t bytes(const Shape& shape) {
    return static_cast<std::size_t>(div_up(shape.n, kLanes)) *
           static_cast<std::size_t>(group_bytes(shape.k));
  }

  // The signed codes of one block's columns of a row, to the row's place.
  static void put(const std::int8_t* codes, std::byte* row) {
    std::uint8_t packed[16];
    for (int c = 0; c < 16; ++c) {
      unsigned code = static_cast<unsigned>(codes[c] + kZero);
      if constexpr (bits == 4) code |= static_cast<unsigned>(codes[16 + c] + kZero) << 4;
      packed[c] = static_cast<std::uint8_t>(code);
    }
    __builtin_memcpy(row, packed, 16);
  }

  static int get(const std::byte* codes, int k, int row, int column) {
    const std::byte* const block =
        codes + row / kLanes * group_bytes(k) + std::int64_t{column} / kColumns * kBlockBytes;
    const auto packed = static_cast<unsigned>(block[block_row(row % kLanes) + column % 16]);
    const int half = column % kColumns / 16;
    return static_cast<int>(bits == 4 ? packed >> (4 * half) & 15U : packed) - kZero;
  }

  // What the integer products read: register `part` of the block of 16 columns that begins at
  // `column`, in the vocabulary T.
  static const std::byte* block(const std::byte* group, int column) {
    return group + std::int64_t{column} / kColumns * kBlockBytes;
  }
  // Where the 16 columns from `column` on begin, for prefetching: they are kSpan bytes.
  static constexpr int kSpan = kLanes * kLanes * bits / 8;
  static const std::byte* span(const std::byte* group, int column) {
    return group + std::int64_t{column} / kLanes * kSpan;
  }
  template <class T>
  static typename T::Bytes load(const std::byte* group, int column, int part) {
    const std::byte* const at =
        block(group, column) + part * static_cast<int>(sizeof(typename T::Bytes));
    return sixteen<T>(T::load_bytes(at), column % kColumns / kLanes);
  }
  // The codes of the `which`-th 16 columns in a register of a block.
  template <class T>
  static typename T::Bytes sixteen(typename T::Bytes stored, int which) {
    if constexpr (bits == 4) return which == 0 ? T::low_halves(stored) : T::high_halves(stored);
    return stored;
  }

  // Rows [n0, n1), whose blocks fill(row, column, codes) gives one by one, to their place; rows and
  // columns past the matrix are zero.
  template <class Fill>
  static void store_rows(int n0, int n1, const Shape& shape, std::byte* out, Fill fill) {
    for (int r = n0; r < round_up(n1, kLanes); ++r) {
      std::byte* to = out + r / kLanes * group_bytes(shape.k) + block_row(r % kLanes);
      for (int b = 0; b < shape.k; b += kColumns, to += kBlockBytes) {
        std::int8_t codes[kColumns] = {};
        if (r < shape.n) fill(r, b, min(kColumns, shape.k - b), codes);
        put(codes, to);
      }
    }
  }
};

// Codes of `count` weights from column j of a row, at most 32.
template <class I>
void round_codes(const FloatRow& row, int j, int count, float scale, int low, int high,
                 std::int8_t* codes) {
  const auto inverse = I::set1(scale != 0.0F ? 1.0F / scale : 0.0F);
  alignas(64) float rounded[2 * kLanes];
  for (int i = 0; i < count; i += I::kWidth) {
    I::store(rounded + i, to_codes<I>(row.at<I>(j + i, j + count), inverse, static_cast<float>(low),
                                      static_cast<float>(high)));
  }
  for (int i = 0; i < count; ++i) codes[i] = static_cast<std::int8_t>(rounded[i]);
}

}  // namespace
}  // namespace kt
