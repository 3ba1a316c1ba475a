// The tile unit of AMX: its configuration, and products of whole panels in tiles of C.
//
// Four tiles of C, two of A and two of B, the eight there are: 32 rows x 32 columns, four loads
// for four products. A product keeps the unit busy for as many cycles as it has rows, 16 at most,
// and its sum is ready after 52 (Intel's optimization manual, "Intel AMX instruction throughput and
// latency"): four independent sums hide that, three nearly.
#pragma once

namespace kt {
namespace {

constexpr int kTileRows = 16;     // at most
constexpr int kTileBytes = 64;    // of a row
constexpr int kStepColumns = 32;  // of bf16 in them
constexpr int kTileSize = kTileRows * kTileBytes;

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

  // Tiles of `rows` rows of A and C. A configuration takes as long as a dozen products.
  void configure(int rows) {
    if (rows == rows_) return;
    rows_ = rows;
    Configuration config;
    for (int t = 0; t < 8; ++t) {
      config.bytes[t] = kTileBytes;
      config.rows[t] = static_cast<std::uint8_t>(t >= 6 ? kTileRows : rows);
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
};

// Of one panel's products, in tiles.
struct TileShape {
  int rows;             // of A and C in a tile
  int count;            // of such tiles, one below the other
  int vectors;          // of 16 columns: 1 or 2
  int steps;            // along the sum
  std::int64_t a_step;  // bytes from step to step of A, whose rows are kTileBytes
  std::int64_t ldc;     // bytes from row to row of C
  bool fresh;           // C is taken for zero, whatever is there
};

// Registers 0 to 3 are C, 4 and 5 A, 6 and 7 B; their numbers are part of an instruction.
template <int tile>
void load_tile(const std::byte* from, std::int64_t stride) {
  if constexpr (tile == 0) _tile_loadd(0, from, stride);
  if constexpr (tile == 1) _tile_loadd(1, from, stride);
  if constexpr (tile == 2) _tile_loadd(2, from, stride);
  if constexpr (tile == 3) _tile_loadd(3, from, stride);
  if constexpr (tile == 4) _tile_loadd(4, from, stride);
  if constexpr (tile == 5) _tile_loadd(5, from, stride);
  if constexpr (tile == 6) _tile_loadd(6, from, stride);
  if constexpr (tile == 7) _tile_loadd(7, from, stride);
}
// Of C.
template <int tile>
void first_tile(const TileShape& x, const std::byte* from) {
  if (!x.fresh) return load_tile<tile>(from, x.ldc);
  if constexpr (tile == 0) _tile_zero(0);
  if constexpr (tile == 1) _tile_zero(1);
  if constexpr (tile == 2) _tile_zero(2);
  if constexpr (tile == 3) _tile_zero(3);
}
template <int tile>
void store_tile(std::byte* to, std::int64_t stride) {
  if constexpr (tile == 0) _tile_stored(0, to, stride);
  if constexpr (tile == 1) _tile_stored(1, to, stride);
  if constexpr (tile == 2) _tile_stored(2, to, stride);
  if constexpr (tile == 3) _tile_stored(3, to, stride);
}

// C += A B for `down` x `across` tiles of C: 2 x 2 or less, or 3 x 1. `between` gets a share of
// other work to do after each step.
template <int down, int across, class Between>
void tile_block(const TileShape& x, const std::byte* a, const std::byte* b, std::byte* c,
                Between& between) {
  const std::int64_t below = x.rows * x.ldc;
  const std::int64_t a_below = std::int64_t{kTileBytes} * x.rows;
  const std::int64_t beside = std::int64_t{kTileSize} * x.steps;
  std::byte* const c1 = across == 2 ? c + kTileBytes : c + 2 * below;
  constexpr bool one = across == 2 || down == 3;  // there is a tile 1
  first_tile<0>(x, c);
  if constexpr (one) first_tile<1>(x, c1);
  if constexpr (down >= 2) first_tile<2>(x, c + below);
  if constexpr (down >= 2 && across == 2) first_tile<3>(x, c + below + kTileBytes);
  for (int k = 0; k < x.steps; ++k, a += x.a_step, b += kTileSize) {
    load_tile<4>(a, kTileBytes);
    load_tile<6>(b, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (across == 2) {
      load_tile<7>(b + beside, kTileBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (down >= 2) {
      load_tile<5>(a + a_below, kTileBytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (across == 2) _tile_dpbf16ps(3, 5, 7);
    }
    if constexpr (down == 3) {
      load_tile<4>(a + 2 * a_below, kTileBytes);
      _tile_dpbf16ps(1, 4, 6);
    }
    between.step();
  }
  store_tile<0>(c, x.ldc);
  if constexpr (one) store_tile<1>(c1, x.ldc);
  if constexpr (down >= 2) store_tile<2>(c + below, x.ldc);
  if constexpr (down >= 2 && across == 2) store_tile<3>(c + below + kTileBytes, x.ldc);
}

// How often `between` gets its share over one panel.
inline int steps_of(const TileShape& x) {
  const int three = x.count > 1 ? x.count % 2 : 0;  // tiles at the end that go column by column
  return x.steps * (three * x.vectors + div_up(x.count, 2) - 2 * three);
}

// All tiles of C over one panel: two by two, three at the end where their number is odd.
template <int across, class Between>
void tile_blocks(const TileShape& x, const std::byte* a, const std::byte* b, std::byte* c,
                 Between& between) {
  const std::int64_t below = x.rows * x.ldc;
  const std::int64_t a_below = std::int64_t{kTileBytes} * x.rows;
  int t = 0;
  for (; x.count - t == 2 || x.count - t > 3; t += 2) {
    tile_block<2, across>(x, a + t * a_below, b, c + t * below, between);
  }
  const std::int64_t beside = std::int64_t{kTileSize} * x.steps;
  if (x.count - t == 3) {
    for (int v = 0; v < across; ++v) {
      tile_block<3, 1>(x, a + t * a_below, b + v * beside, c + t * below + v * kTileBytes, between);
    }
  } else if (x.count - t == 1) {
    tile_block<1, across>(x, a + t * a_below, b, c + t * below, between);
  }
}

}  // namespace
}  // namespace kt
