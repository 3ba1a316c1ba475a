// Integer products without AVX: two products of 16 bits per dword by PMADDWD, which is in SSE2, so
// in every x86-64.
//
// Tile: 1 row x 16 columns, 4 integer and 4 floating-point sums of the 16 registers.
#pragma once

namespace kt {
namespace {

struct PortableInteger {
  using Vector = Portable;
  using Ints = std::int32_t __attribute__((vector_size(16)));
  using Bytes = std::uint8_t __attribute__((vector_size(16)));  // a row of a block
  using A = std::int16_t;
  using Panel = std::int16_t;
  static constexpr int kParts = 16;
  static constexpr int kRows = 1;
  static constexpr int kVectors = 1;
  static constexpr int kPanelDepth = 128;
  static constexpr int kStep = 2;
  static constexpr int kDirectRows = 0;  // always by way of a panel
  static constexpr int kStarts = 1;

  static Ints set1(std::int32_t x) { return Ints{x, x, x, x}; }
  static Ints add(Ints a, Ints b) { return a + b; }
  static Portable::F to_floats(Ints v) { return __builtin_convertvector(v, Portable::F); }
  static Bytes load_bytes(const std::byte* p) {
    Bytes v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static Bytes low_halves(Bytes v) { return v & 15; }
  static Bytes high_halves(Bytes v) { return v >> 4; }
  static Bytes lookup(Bytes table, Bytes codes) {
    Bytes v{};
    for (int i = 0; i < 16; ++i) v[i] = table[codes[i]];
    return v;
  }
  // Part 4 j + l is row 4 l + j. Rounded as VPMULHRSW does it for the others.
  static void make_tables(const float* steps, Bytes (&tables)[kParts]) {
    for (int part = 0; part < kParts; ++part) {
      const auto step =
          static_cast<std::int32_t>(nearest_scalar(steps[part % 4 * 4 + part / 4] * 2048.0F));
      for (int c = 0; c < 16; ++c) {
        tables[part][c] =
            static_cast<std::uint8_t>(128 + ((((16 * (c - 8) * step) >> 14) + 1) >> 1));
      }
    }
  }
  static float nearest_scalar(float x) {
    Portable::F v = Portable::set1(x);
    v = nearest<Portable>(v);
    return v[0];
  }

  static Ints load_panel(const Panel* p) {
    Ints v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static Ints broadcast(const A* a) {
    std::int32_t pair = 0;
    __builtin_memcpy(&pair, a, 4);
    return set1(pair);
  }
  static Ints dot(Ints acc, Ints weights, Ints x) {
    return acc + reinterpret_cast<Ints>(_mm_madd_epi16(reinterpret_cast<__m128i>(weights),
                                                       reinterpret_cast<__m128i>(x)));
  }
  static constexpr int panel_size(int depth) { return depth * kLanes; }

  // Sum s of output o: pairs of sums are neighbours.
  static Panel& at(Panel* panel, int s, int o) { return panel[s / 2 * 2 * kLanes + 2 * o + s % 2]; }

  template <class F>
  static void unpack_k(const std::byte* group, int column, int depth, Panel* out) {
    for (int k = 0; k < depth; k += kLanes) {
      for (int part = 0; part < kParts; ++part) {
        const Bytes v = F::Block::template load<PortableInteger>(group, column + k, part);
        for (int c = 0; c < 16; ++c) at(out, k + c, part % 4 * 4 + part / 4) = v[c];
      }
    }
  }

  template <class F, class Decoder>
  static void unpack_n(const std::byte* group, int column, const Decoder& decode, Panel* out) {
    for (int part = 0; part < kParts; ++part) {
      const Bytes v = decode(F::Block::template load<PortableInteger>(group, column, part), part);
      for (int c = 0; c < 16; ++c) at(out, part % 4 * 4 + part / 4, c) = v[c];
    }
  }

  template <Axis axis>
  static Ints round(const float* values, A* out) {
    Ints sum{};
    for (int i = 0; i < kLanes; i += 4) {
      const Ints codes =
          __builtin_convertvector(nearest<Portable>(Portable::load(values + i)), Ints);
      for (int l = 0; l < 4; ++l) out[i + l] = static_cast<A>(codes[l]);
      sum += codes;
    }
    return sum;
  }
  static void starts(Ints sum, std::int32_t factor, std::int32_t* out) {
    out[0] = factor * ((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
};

}  // namespace
}  // namespace kt
