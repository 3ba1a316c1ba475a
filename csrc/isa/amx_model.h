// The tile unit of AMX in plain C++, so that tests run its kernels on any CPU: one function for
// each instruction, one unit for each thread. Semantics: Intel SDM vol. 1, chapter "Programming
// with Intel Advanced Matrix Extensions", and vol. 2 under the instruction's name. Where the CPU
// would raise #GP or #UD, a function throws.
//
// Not modelled: the resumption of a load or store after a page fault (start_row), and which NaN
// comes out where several go in.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace kt::tile_model {

constexpr int kTiles = 8;
constexpr int kTileRows = 16;
constexpr int kRowBytes = 64;

struct Tile {
  int rows = 0;
  int colsb = 0;  // bytes of a row
  std::uint8_t data[kTileRows][kRowBytes] = {};

  template <class T>
  [[nodiscard]] T at(int row, int column) const {
    T value;
    std::memcpy(&value, data[row] + static_cast<std::size_t>(column) * sizeof value, sizeof value);
    return value;
  }
  template <class T>
  void set(int row, int column, T value) {
    std::memcpy(data[row] + static_cast<std::size_t>(column) * sizeof value, &value, sizeof value);
  }
};

struct Unit {
  int palette = 0;  // 0: released
  Tile tiles[kTiles];
};

inline thread_local Unit unit;

[[noreturn]] inline void fault(const char* instruction, const char* why) {
  throw std::logic_error(std::string(instruction) + ": " + why);
}

inline void tilerelease() { unit = Unit{}; }

inline void ldtilecfg(const void* memory) {
  std::uint8_t bytes[64];
  std::memcpy(bytes, memory, sizeof bytes);
  if (bytes[0] == 0) {
    tilerelease();
    return;
  }
  if (bytes[0] != 1) fault("LDTILECFG", "#GP: no such palette");
  if (bytes[1] != 0) fault("LDTILECFG", "start_row is not modelled");
  for (int i = 2; i < 64; ++i) {
    const bool used = (i >= 16 && i < 32) || (i >= 48 && i < 56);
    if (!used && bytes[i] != 0) fault("LDTILECFG", "#GP: a reserved byte is not zero");
  }
  Unit next;
  next.palette = 1;
  for (int t = 0; t < kTiles; ++t) {
    Tile& tile = next.tiles[t];
    tile.colsb = bytes[16 + 2 * t] | bytes[17 + 2 * t] << 8;
    tile.rows = bytes[48 + t];
    if (tile.colsb > kRowBytes || tile.rows > kTileRows) fault("LDTILECFG", "#GP: tile too large");
    if ((tile.colsb == 0) != (tile.rows == 0)) fault("LDTILECFG", "#GP: rows or colsb alone is 0");
  }
  unit = next;  // the tiles' data are zero
}

inline Tile& configured(const char* instruction, int t) {
  if (unit.palette == 0) fault(instruction, "#UD: the tiles are not configured");
  if (t < 0 || t >= kTiles) fault(instruction, "#UD: no such tile");
  if (unit.tiles[t].rows == 0) fault(instruction, "#UD: the tile is not configured");
  return unit.tiles[t];
}

inline Tile& of_dwords(const char* instruction, int t) {
  Tile& tile = configured(instruction, t);
  if (tile.colsb % 4 != 0) fault(instruction, "#UD: colsb is no multiple of 4");
  return tile;
}

inline void tilezero(int t) { std::memset(configured("TILEZERO", t).data, 0, sizeof Tile::data); }

inline void tileloadd(int t, const void* base, std::int64_t stride) {
  Tile& tile = of_dwords("TILELOADD", t);
  std::memset(tile.data, 0, sizeof tile.data);
  for (int i = 0; i < tile.rows; ++i) {
    std::memcpy(tile.data[i], static_cast<const std::uint8_t*>(base) + i * stride,
                static_cast<std::size_t>(tile.colsb));
  }
}

inline void tilestored(int t, void* base, std::int64_t stride) {
  const Tile& tile = of_dwords("TILESTORED", t);
  for (int i = 0; i < tile.rows; ++i) {
    std::memcpy(static_cast<std::uint8_t*>(base) + i * stride, tile.data[i],
                static_cast<std::size_t>(tile.colsb));
  }
}

// C [m][n] += A [m][k] B [k][n] in dwords: what the products ask of their three tiles.
struct Operands {
  Operands(const char* instruction, int to, int left, int right)
      : c(of_dwords(instruction, to)),
        a(of_dwords(instruction, left)),
        b(of_dwords(instruction, right)),
        m(c.rows),
        n(c.colsb / 4),
        k(b.rows) {
    if (to == left || to == right || left == right) fault(instruction, "#UD: a tile comes twice");
    if (a.rows != m || b.colsb != c.colsb || a.colsb != 4 * k) {
      fault(instruction, "#UD: the shapes do not fit");
    }
  }
  Tile& c;
  const Tile& a;
  const Tile& b;
  int m, n, k;
};

// Four products of bytes to each dword of C, which wraps.
template <class Left, class Right>
void dot_bytes(const char* instruction, int to, int left, int right) {
  const Operands x(instruction, to, left, right);
  for (int m = 0; m < x.m; ++m) {
    for (int n = 0; n < x.n; ++n) {
      auto sum = x.c.at<std::uint32_t>(m, n);
      for (int k = 0; k < x.k; ++k) {
        for (int i = 0; i < 4; ++i) {
          const int product = x.a.at<Left>(m, 4 * k + i) * x.b.at<Right>(k, 4 * n + i);
          sum += static_cast<std::uint32_t>(product);
        }
      }
      x.c.set(m, n, sum);
    }
  }
}

inline void tdpbssd(int to, int left, int right) {
  dot_bytes<std::int8_t, std::int8_t>("TDPBSSD", to, left, right);
}
inline void tdpbsud(int to, int left, int right) {
  dot_bytes<std::int8_t, std::uint8_t>("TDPBSUD", to, left, right);
}
inline void tdpbusd(int to, int left, int right) {
  dot_bytes<std::uint8_t, std::int8_t>("TDPBUSD", to, left, right);
}
inline void tdpbuud(int to, int left, int right) {
  dot_bytes<std::uint8_t, std::uint8_t>("TDPBUUD", to, left, right);
}

constexpr double kSmallestNormal = 0x1p-126;          // of fp32
constexpr double kTiny = kSmallestNormal - 0x1p-151;  // below it 24 bits are rounded to less

inline double operand(float x) {  // DAZ
  return std::fabs(x) < kSmallestNormal ? std::copysign(0.0, x) : x;
}

inline double operand(std::uint16_t bf16) {
  const std::uint32_t bits = std::uint32_t{bf16} << 16;
  float x = 0;
  std::memcpy(&x, &bits, sizeof x);
  return operand(x);
}

// x + y to fp32, rounded to nearest even; results below the normal numbers are zero (FTZ, decided
// after rounding as in the rest of x86). The operands have 24 bits at most: where double must round
// their sum, one is below 2^-29 of the other, and fp32's rounding ignores it.
inline float sum(double x, double y) {
  const double total = x + y;
  return static_cast<float>(std::fabs(total) < kTiny ? std::copysign(0.0, total) : total);
}

// The first products of all pairs are summed from zero, and the second ones, each by FMA; then the
// two sums are added, and the result to C.
inline void tdpbf16ps(int to, int left, int right) {
  const Operands x("TDPBF16PS", to, left, right);
  for (int m = 0; m < x.m; ++m) {
    for (int n = 0; n < x.n; ++n) {
      float sums[2] = {0, 0};
      for (int k = 0; k < x.k; ++k) {
        for (int i = 0; i < 2; ++i) {
          const double product = operand(x.a.at<std::uint16_t>(m, 2 * k + i)) *
                                 operand(x.b.at<std::uint16_t>(k, 2 * n + i));  // exact
          sums[i] = sum(product, sums[i]);
        }
      }
      x.c.set(m, n, sum(operand(x.c.at<float>(m, n)), sum(sums[0], sums[1])));
    }
  }
}

}  // namespace kt::tile_model
