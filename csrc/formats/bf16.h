// BF16 weights.
//
// Layout: rows in groups of 16, columns in blocks of 8; a block of 16 x 8 is 256 bytes, four
// 64-byte vectors of four rows each. Row r of a group is lane r / 4 of vector r % 4:
//
//   group g, block b at ((g * k16 / 8) + b) * 256      k16: k padded to 16, n likewise; zeros
//   vector j:  | row j | row 4 + j | row 8 + j | row 12 + j |   each 8 columns x 2 bytes
//
// so that a 4 x 4 transposition of dwords within lanes gives, for two columns, all 16 rows in
// order (the forward operand), and one two-source permute of vector j in blocks b and b + 1 gives
// 16 columns of a pair of rows (the backward operand): one copy serves both directions.
#pragma once

namespace kt {
namespace {

struct BF16 {
  static constexpr const char* kName = "bf16";
  static constexpr int kBlock = 8;  // columns

  static std::size_t bytes(const Shape& shape) {
    return std::size_t{2} * static_cast<std::size_t>(round_up(shape.n, kLanes)) *
           static_cast<std::size_t>(round_up(shape.k, kLanes));
  }

  // Up to eight columns of a row, from k on, as the row of a block; zeros behind them.
  template <class I>
  static void pack_row(DType dtype, const std::byte* row, int k, int count, std::byte* to) {
    act_t rounded[kBlock] = {};
    const auto size = static_cast<std::size_t>(count);
    if (dtype == DType::bfloat16) {
      __builtin_memcpy(rounded, row + std::int64_t{2} * k, 2 * size);
    } else {
      alignas(64) float values[kLanes] = {};
      __builtin_memcpy(values, row + std::int64_t{4} * k, 4 * size);
      act_t all[kLanes];
      for (int j = 0; j < kLanes; j += I::kWidth) I::store(all + j, I::load(values + j));
      __builtin_memcpy(rounded, all, 16);
    }
    __builtin_memcpy(to, rounded, 16);
  }

  // Rows [n0, n0 + 16) and columns [k0, k0 + count) of a matrix n x k as consecutive blocks; count
  // is a multiple of 8, and what lies past the matrix is zero.
  template <class I>
  static void pack_group(const Rows& source, int n0, int n, int k0, int k, int count,
                         std::byte* out) {
    const int blocks = count / kBlock;
    const int whole = source.dtype == DType::bfloat16 ? min(blocks, max(0, k - k0) / kBlock) : 0;
    for (int r = 0; r < kLanes; ++r) {
      std::byte* const to = out + block_row(r);
      int b = 0;
      if (n0 + r < n) {
        const std::byte* const row = source.row(n0 + r);
        for (; b < whole; ++b) {
          __builtin_memcpy(to + b * kBlockBytes, row + std::int64_t{2} * (k0 + b * kBlock), 16);
        }
        for (; b < blocks; ++b) {
          const int left = k - (k0 + b * kBlock);
          if (left <= 0) break;
          pack_row<I>(source.dtype, row, k0 + b * kBlock, min(kBlock, left), to + b * kBlockBytes);
        }
      }
      for (; b < blocks; ++b) __builtin_memset(to + b * kBlockBytes, 0, 16);
    }
  }

  template <class I>
  static void pack(const Rows& source, int n0, int n1, const Shape& shape, std::byte* out) {
    const int k16 = round_up(shape.k, kLanes);
    for (int g = n0; g < n1; g += kLanes) {
      pack_group<I>(source, g, shape.n, 0, shape.k, k16, out + std::int64_t{2} * g * k16);
    }
  }

  static void unpack(const Packed& w, float* out) {
    const int k16 = round_up(w.k, kLanes);
    for (int i = 0; i < w.n; ++i) {
      const std::byte* const group = w.data + std::int64_t{2} * (i - i % kLanes) * k16;
      for (int j = 0; j < w.k; ++j) {
        std::uint16_t bits = 0;
        __builtin_memcpy(&bits,
                         group + j / kBlock * kBlockBytes + block_row(i % kLanes) + j % 8 * 2, 2);
        out[static_cast<std::int64_t>(i) * w.k + j] =
            __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
      }
    }
  }

  // Outputs [o, o + 16) by sums [s, s + depth): the stored blocks, where they lie.
  static constexpr int kMaxDepth = 1 << 30;
  static constexpr int kDirectVectors = 1 << 20;  // the next columns' blocks follow
  static constexpr bool kStored = true;
  static constexpr int kSpan = 2 * kBlockBytes;  // of 16 columns
  template <class I, Axis axis>
  static Blocks blocks(const Packed& w, int o, int s, int /*depth*/, std::byte* /*scratch*/) {
    const std::int64_t group = std::int64_t{2} * round_up(w.k, kLanes) * kLanes;
    const int row = axis == Axis::k ? o : s;
    const int column = axis == Axis::k ? s : o;
    return {w.data + row / kLanes * group + std::int64_t{column} / kBlock * kBlockBytes, group};
  }
};

// A row-major matrix, packed block by block on its way to the tile: LoRA's are so small beside the
// weights that a packed copy would cost more than it saves.
struct Unpacked {
  static constexpr int kMaxDepth = 1024;  // 16 rows x 1024 columns in 32 KiB
  static constexpr int kDirectVectors = 1;
  static constexpr bool kStored = false;
  template <class I, Axis axis>
  static Blocks blocks(const RowMajor& w, int o, int s, int depth, std::byte* scratch) {
    if constexpr (axis == Axis::k) {
      BF16::pack_group<I>(w.rows, o, w.n, s, w.k, depth, scratch);
      return {scratch, 0};
    }
    constexpr int kGroupBytes = 2 * kBlockBytes;  // 16 rows x 16 columns
    for (int g = 0; g < depth; g += kLanes) {
      BF16::pack_group<I>(w.rows, s + g, w.n, o, w.k, kLanes, scratch + g / kLanes * kGroupBytes);
    }
    return {scratch, kGroupBytes};
  }
};

}  // namespace
}  // namespace kt
