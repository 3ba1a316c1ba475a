// AMX: TDPBF16PS multiplies up to 16 rows of 32 columns of A by as much of a panel. AVX-512's
// panels are what the tile unit takes for B: a row of a tile is a pair of 16 outputs. Elementwise
// operations, A and products of few rows are those of AVX-512 with BF16. (Intel SDM vol. 2,
// "TDPBF16PS": even and odd columns are summed apart, sums rounded to nearest even, denormals
// flushed.)
//
// Four tiles of C, two of A and two of B, the eight there are: 32 rows x 32 columns, four loads
// for four products. A product keeps the unit busy for as many cycles as it has rows, 16 at most,
// and its sum is ready after 52 (Intel's optimization manual, "Intel AMX instruction throughput and
// latency"): four independent sums hide that. So a single tile of rows goes over 64 columns at
// once.
//
// Measured on a Sapphire Rapids: 390 cycles for 32 x 32 x 128 from L1, of which the unit works 256;
// in the layer twice as many, since C and A come from L2 (64 and 64 lines). Panels of 256 x 32
// halve C's share: a tenth faster with 128 rows, as much slower with 48. Prefetching C or A into L1
// costs more than it saves.
#pragma once

namespace kt {
namespace {

// Orders what was stored before the next tile instruction. g++ 12's macros for tile loads name no
// memory, and its _tile_loadconfig only 8 of the 64 bytes: stores to the others may come later or
// not at all.
inline void stored(const void* memory) { __asm__ volatile("" : : "r"(memory) : "memory"); }

// The unit, configured for tiles 0 to 3 of C, 4 and 5 of A, 6 and 7 of B.
//
// Held for one call of gemm and then released: the unit is the thread's, and other libraries that
// use it there, such as oneDNN, load configurations of their own, as the psABI allows. A unit that
// is not released also costs every switch of the process 8 KiB.
class TileUnit {
 public:
  TileUnit() = default;
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;
  ~TileUnit() {
    if (rows_ != 0) _tile_release();
  }

  // Tiles of `rows` rows of A and C, of which A's have `bytes` bytes. A configuration takes as long
  // as a dozen products.
  void configure(int rows, int bytes) {
    if (rows == rows_ && bytes == bytes_) return;
    rows_ = rows;
    bytes_ = bytes;
    Configuration config;
    for (int t = 0; t < 8; ++t) {
      config.bytes[t] = static_cast<std::uint16_t>(t == 4 || t == 5 ? bytes : 64);
      config.rows[t] = static_cast<std::uint8_t>(t >= 6 ? bytes / 4 : rows);
    }
    stored(&config);
    _tile_loadconfig(&config);
  }

 private:
  struct Configuration {  // Intel SDM vol. 2, "LDTILECFG"
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t bytes[16] = {};  // of a row
    std::uint8_t rows[16] = {};
  };
  static_assert(sizeof(Configuration) == 64);

  int rows_ = 0;
  int bytes_ = 0;
};

// What the tiles of one panel's products have in common.
struct TileShape {
  int rows;          // of A and C in a tile
  int step;          // bytes of a row of A in a tile
  int bytes;         // of a row of A along the panel
  std::int64_t lda;  // bytes from row to row of A
  std::int64_t ldc;  // and of C

  // 16 outputs' dwords for each dword of A.
  [[nodiscard]] std::int64_t panel() const { return std::int64_t{16} * bytes; }
};

// The numbers of tiles are part of an instruction.
struct DotBf16 {
  static void c0() { _tile_dpbf16ps(0, 4, 6); }
  static void c1() { _tile_dpbf16ps(1, 4, 7); }
  static void c2() { _tile_dpbf16ps(2, 5, 6); }
  static void c3() { _tile_dpbf16ps(3, 5, 7); }
};

// C += A B for two pairs of tiles of C, each one tile high: `first` and `second` say how many
// vectors of columns, of which the second has none where it isn't there. It lies below the first or
// beside it.
template <class Dot, int first, int second, bool below>
void tile_pairs(const TileShape& x, const std::byte* a, const std::byte* b, std::byte* c) {
  const std::byte* const a2 = below ? a + x.rows * x.lda : a;
  const std::byte* const b2 = below ? b : b + 2 * x.panel();
  std::byte* const c2 = below ? c + x.rows * x.ldc : c + 128;
  _tile_loadd(0, c, x.ldc);
  if constexpr (first == 2) _tile_loadd(1, c + 64, x.ldc);
  if constexpr (second >= 1) _tile_loadd(2, c2, x.ldc);
  if constexpr (second == 2) _tile_loadd(3, c2 + 64, x.ldc);
  for (int k = 0; k < x.bytes; k += x.step) {
    const std::int64_t row = std::int64_t{16} * k;
    _tile_loadd(4, a + k, x.lda);
    _tile_loadd(6, b + row, 64);
    Dot::c0();
    if constexpr (first == 2) {
      _tile_loadd(7, b + x.panel() + row, 64);
      Dot::c1();
    }
    if constexpr (second >= 1) {
      _tile_loadd(5, a2 + k, x.lda);
      if constexpr (!below) _tile_loadd(6, b2 + row, 64);
      Dot::c2();
    }
    if constexpr (second == 2) {
      if constexpr (!below) _tile_loadd(7, b2 + x.panel() + row, 64);
      Dot::c3();
    }
  }
  _tile_stored(0, c, x.ldc);
  if constexpr (first == 2) _tile_stored(1, c + 64, x.ldc);
  if constexpr (second >= 1) _tile_stored(2, c2, x.ldc);
  if constexpr (second == 2) _tile_stored(3, c2 + 64, x.ldc);
}

// All tiles of C over one panel.
template <class Dot>
void tile_product(const TileShape& x, int count, int vectors, const std::byte* a,
                  const std::byte* b, std::byte* c, Ahead ahead) {
  const int pairs = count / 2 * div_up(vectors, 2) + count % 2;
  for (int i = 0, t = 0; i < count; i += 2, a += 2 * x.rows * x.lda, c += 2 * x.rows * x.ldc) {
    if (i + 1 < count) {
      for (int v = 0; v < vectors; v += 2, ++t) {
        ahead.fetch(t, pairs);
        const std::byte* const bv = b + v * x.panel();
        if (v + 1 < vectors) {
          tile_pairs<Dot, 2, 2, true>(x, a, bv, c + v * 64);
        } else {
          tile_pairs<Dot, 1, 1, true>(x, a, bv, c + v * 64);
        }
      }
      continue;
    }
    ahead.fetch(pairs - 1, pairs);
    if (vectors == 4) {
      tile_pairs<Dot, 2, 2, false>(x, a, b, c);
    } else if (vectors == 3) {
      tile_pairs<Dot, 2, 1, false>(x, a, b, c);
    } else if (vectors == 2) {
      tile_pairs<Dot, 2, 0, false>(x, a, b, c);
    } else {
      tile_pairs<Dot, 1, 0, false>(x, a, b, c);
    }
  }
}

struct Amx : Avx512Bf16 {
  static constexpr const char* kName = "amx";
  using Integer = struct AmxInteger;
  static constexpr int kRows = 32;
  static constexpr int kVectors = 4;
  static constexpr int kDepth = 128;  // 4 panels, 16 KiB, and 32 rows of A, 8 KiB: half of L1

  class Tiles {
   public:
    void operator()(int m, int vectors, const act_t* a, int lda, const act_t* panel, int depth,
                    float* c, int ldc, Ahead ahead) {
      // Tiles and steps are alike, so that one configuration serves all: 49 rows are four tiles of
      // 13, the last of which ends behind A's and C's (16 tiles at most: within kMaxRows), and 48
      // columns are two steps of 24.
      const int count = div_up(m, 16);
      const int bytes = 2 * depth;
      int steps = div_up(bytes, 64);
      while (bytes % (4 * steps) != 0) ++steps;
      const TileShape x{div_up(m, count), bytes / steps, bytes, std::int64_t{2} * lda,
                        std::int64_t{4} * ldc};
      unit_.configure(x.rows, x.step);
      stored(panel);
      tile_product<DotBf16>(x, count, vectors, reinterpret_cast<const std::byte*>(a),
                            reinterpret_cast<const std::byte*>(panel),
                            reinterpret_cast<std::byte*>(c), ahead);
    }

   private:
    TileUnit unit_;
  };
};

}  // namespace
}  // namespace kt
