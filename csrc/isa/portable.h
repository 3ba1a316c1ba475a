// Plain C++ in the compilers' vector notation: 128-bit vectors, which every x86-64 has (SSE2).
//
// Tile: 2 rows x 16 columns of fp32 in 8 of the 16 registers, 4 for the panel's vectors, and a
// broadcast; without FMA a product needs a temporary too, so a third row would spill.
#pragma once

namespace kt {
namespace {

struct Portable {
  static constexpr const char* kName = "portable";
  static constexpr int kRows = 2;
  static constexpr int kVectors = 1;     // of kLanes columns
  static constexpr int kDirectRows = 0;  // always by way of a panel
  static constexpr int kDirectTiles = 0;
  static constexpr int kDirectLength = 0;
  static constexpr int kDirectDepth = 0;
  static constexpr int kDirectVectors = 0;
  static constexpr int kDepth = 256;  // 256 x 16 fp32: a panel of 16 KiB, half of L1
  static constexpr int kWidth = 4;    // floats per vector of the elementwise operations

  using Integer = struct PortableInteger;
  using A = float;
  using Panel = float;
  using F = float __attribute__((vector_size(16)));
  using U = std::uint32_t __attribute__((vector_size(16)));
  using H = std::uint16_t __attribute__((vector_size(8)));

  static F set1(float x) { return F{x, x, x, x}; }
  static F load(const float* p) {
    F v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
  static F load(const act_t* p) {
    H h;
    __builtin_memcpy(&h, p, sizeof h);
    return reinterpret_cast<F>(__builtin_convertvector(h, U) << 16);
  }
  static void store(act_t* p, F v) {
    const U bits = reinterpret_cast<U>(v);
    const U rounded = bits + 0x7fffU + ((bits >> 16) & 1U);
    const U quiet = bits | 0x400000U;  // NaN stays NaN whatever its payload
    const U is_nan = reinterpret_cast<U>(v != v);
    const U chosen = (rounded & ~is_nan) | (quiet & is_nan);
    const H h = __builtin_convertvector(chosen >> 16, H);
    __builtin_memcpy(p, &h, sizeof h);
  }
  static F add_product(F sum, F x, F y) { return sum + x * y; }
  // As MINPS and MAXPS: the second operand if either is NaN.
  static F minimum(F a, F b) { return a < b ? a : b; }
  static F maximum(F a, F b) { return a > b ? a : b; }
  // Of magnitudes that are >= 0, NaN above infinity: as integers, bits have their order.
  static F larger(F most, F x) {
    const U a = reinterpret_cast<U>(most);
    const U b = reinterpret_cast<U>(x) & 0x7fffffffU;
    return reinterpret_cast<F>(a > b ? a : b);
  }
  static float largest(F v) {
    const F halves = larger(v, F{v[2], v[3], v[0], v[1]});
    return larger(halves, F{halves[1], halves[0], halves[3], halves[2]})[0];
  }
  static F scale_by_power(F x, F power) {  // the low bits of `power` hold the exponent
    return x * reinterpret_cast<F>((reinterpret_cast<U>(power) << 23) + 0x3f800000U);
  }
  static void from_half(const std::uint16_t* in, float* out) {
    for (int i = 0; i < kLanes; ++i) out[i] = half_to_float(in[i]);
  }
  static float sum(F v) { return (v[0] + v[2]) + (v[1] + v[3]); }

  static constexpr int panel_size(int depth) { return depth * kLanes; }

  // A block of a group: 16 rows x 8 columns (formats/bf16.h).
  static float weight(const std::byte* block, int row, int column) {
    std::uint16_t bits = 0;
    __builtin_memcpy(&bits, block + ((row % 4) * 4 + row / 4) * 16 + column * 2, 2);
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
  }

  // `depth` columns of a group of rows to [column][row].
  static void unpack_k(const std::byte* blocks, int depth, float* out) {
    for (int k = 0; k < depth; ++k) {
      for (int r = 0; r < kLanes; ++r) *out++ = weight(blocks + k / 8 * 256, r, k % 8);
    }
  }

  // `depth` rows of two blocks to [row][column]; groups of rows are `stride` bytes apart.
  static void unpack_n(const std::byte* blocks, std::int64_t stride, int depth, float* out) {
    for (int r = 0; r < depth; ++r) {
      const std::byte* const block = blocks + r / kLanes * stride;
      for (int c = 0; c < kLanes; ++c) *out++ = weight(block + c / 8 * 256, r % kLanes, c % 8);
    }
  }

  static int a_pieces(DType /*dtype*/) { return 1; }
  template <Axis axis>
  static void pack_a(const Rows& a, int /*piece*/, int m, int s0, int valid, int length, float* out,
                     int lda) {
    pack_a_float<Portable>(a, m, s0, valid, length, out, lda);
  }

  template <int rows, int vectors>
  static void tile(const float* a, int lda, const float* panel, int depth, float* c, int ldc) {
    static_assert(vectors == 1);
    F acc[rows][4];
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      KT_UNROLL for (int j = 0; j < 4; ++j) acc[i][j] = load(c + i * ldc + 4 * j);
    }
    for (int k = 0; k < depth; ++k, panel += kLanes) {
      KT_UNROLL for (int i = 0; i < rows; ++i) {
        const F x = set1(a[i * lda + k]);
        KT_UNROLL for (int j = 0; j < 4; ++j) acc[i][j] += x * load(panel + 4 * j);
      }
    }
    KT_UNROLL for (int i = 0; i < rows; ++i) {
      KT_UNROLL for (int j = 0; j < 4; ++j) store(c + i * ldc + 4 * j, acc[i][j]);
    }
  }
};

}  // namespace
}  // namespace kt
