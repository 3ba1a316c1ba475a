// INT4 weights with a scale for every 32, 64 or 128 columns of a row: codes -8 .. 7.
//
// Layout: the codes (shared/codes.h), then per row of n padded to 16 three float32, [n16] each:
// `unit`, a power of two, `back`, and `step`, which is unit / back; then the groups' scales in
// units of their row's, float16 [n16 / 16][k / group][16 rows]. Published scales in bfloat16 or
// float16 are held exactly that way, down to 2^-14 of the row's unit.
//
//   w[n][k] = unit[n] * scale[n / 16][k / group][n % 16] * code[n][k]
//
// Along k each group's sum is scaled exactly. Along n the sum runs over rows, and a group's scale
// holds for some columns only, so it can't go into A. But a group has 16 different weights: a table
// of 16 bytes turns its codes into codes of 8 bits in steps of `back`, the largest scale of the row
// times 8 / 127, which is INT8's product. That adds to the error against these weights 0.7% for
// normal ones; docs/rounding.md has the figures.
#pragma once

namespace kt {
namespace {

struct INT4KGroup {
  static constexpr const char* kName = "int4_kgroup";
  using Block = BlockCodes<4>;
  static constexpr int kLow = -8;
  static constexpr int kHigh = 7;
  static constexpr Integers kIntegers{kLow, kHigh, true};

  static std::size_t rows16(const Shape& shape) {
    return static_cast<std::size_t>(round_up(shape.n, kLanes));
  }
  static std::size_t bytes(const Shape& shape) {
    return Block::bytes(shape) +
           rows16(shape) * (3 * sizeof(float) + static_cast<std::size_t>(shape.k / shape.group) *
                                                    sizeof(std::uint16_t));
  }

  // Where the parts of a packed matrix lie.
  template <class Byte, class Float, class Half>
  struct Parts {
    Float* unit;
    Float* back;
    Float* step;
    Half* scale;
    int groups;

    Parts(const Shape& shape, Byte* data)
        : unit(reinterpret_cast<Float*>(data + Block::bytes(shape))),
          back(unit + rows16(shape)),
          step(back + rows16(shape)),
          scale(reinterpret_cast<Half*>(step + rows16(shape))),
          groups(shape.k / shape.group) {}
    // The scales of 16 rows for the group `g` of their columns.
    [[nodiscard]] Half* of(int row, int g) const {
      return scale + (std::int64_t{row} / kLanes * groups + g) * kLanes;
    }
  };
  using Stored = Parts<const std::byte, const float, const std::uint16_t>;
  using Target = Parts<std::byte, float, std::uint16_t>;
  static Stored stored(const Packed& w) { return {w, w.data}; }

  static float scale_at(const Stored& s, int row, int g) {
    return s.unit[row] * half_to_float(s.of(row, g)[row % kLanes]);
  }

  // The least power of two that is no smaller than |x|, or 2^127: twice that is infinite, and
  // float16 holds scales of two units as well.
  static float power_above(float x) {
    const auto bits = __builtin_bit_cast(std::uint32_t, x) & 0x7fffffffU;
    const auto power = (bits + 0x7fffffU) & 0x7f800000U;
    return __builtin_bit_cast(float, power < 0x7f000000U ? power : 0x7f000000U);
  }

  // Rows' units, scales and steps: scale_of(row, group) in float32, `most` its largest magnitude.
  template <class Most, class ScaleOf>
  static void store_scales(int n0, int n1, const Shape& shape, const Target& to, Most most,
                           ScaleOf scale_of) {
    for (int r = n0; r < round_up(n1, kLanes); ++r) {
      const float unit = r < shape.n ? power_above(most(r)) : 0.0F;
      float largest = 0.0F;
      for (int g = 0; g < to.groups; ++g) {
        const float scale = unit > 0.0F ? scale_of(r, g) / unit : 0.0F;
        std::uint16_t& half = to.of(r, g)[r % kLanes];
        half = float_to_half(scale);
        const float held = half_to_float(half);
        largest = max_of(largest, held < 0.0F ? -held : held);
      }
      to.unit[r] = unit;
      to.back[r] = unit * largest * (8.0F / 127.0F);
      to.step[r] = largest > 0.0F ? 127.0F / (8.0F * largest) : 0.0F;
    }
  }
  static float max_of(float a, float b) { return a > b ? a : b; }

  template <class I>
  static void pack(const Rows& source, int n0, int n1, const Shape& shape, std::byte* out) {
    const Target to(shape, out);
    const auto row_at = [&](int r) { return FloatRow{source.row(r), source.dtype}; };
    // Twice the scale at which the extreme becomes `kLow`, which the best one may exceed by half:
    // so pack_codes, whose unit is that of the largest scale, never has a coarser one, and the
    // scales of a packed matrix come back from it as they are.
    store_scales(
        n0, n1, shape, to, [&](int r) { return extreme<I>(row_at(r), 0, shape.k) * (2.0F / kLow); },
        [&](int r, int g) {
          return best_scale<I>(row_at(r), g * shape.group, (g + 1) * shape.group, kLow, kHigh);
        });
    const Stored held(shape, out);
    Block::store_rows(n0, n1, shape, out, [&](int r, int j, int count, std::int8_t* codes) {
      round_codes<I>(row_at(r), j, count, scale_at(held, r, j / shape.group), kLow, kHigh, codes);
    });
  }

  static void pack_codes(const Codes& source, int n0, int n1, const Shape& shape, std::byte* out) {
    const Target to(shape, out);
    const auto scale_of = [&](int r, int g) { return source.scales[r * source.scale_stride + g]; };
    store_scales(
        n0, n1, shape, to,
        [&](int r) {
          float most = 0.0F;
          for (int g = 0; g < to.groups; ++g) {
            most = max_of(most, max_of(scale_of(r, g), -scale_of(r, g)));
          }
          return most;
        },
        scale_of);
    Block::store_rows(n0, n1, shape, out, [&](int r, int j, int count, std::int8_t* codes) {
      __builtin_memcpy(codes, source.codes + r * source.stride + j,
                       static_cast<std::size_t>(count));
    });
  }

  static void unpack_codes(const Packed& w, std::int8_t* codes, float* scales) {
    const Stored held = stored(w);
    for (int r = 0; r < w.n; ++r) {
      for (int g = 0; g < held.groups; ++g) {
        scales[std::int64_t{r} * held.groups + g] = scale_at(held, r, g);
      }
      for (int j = 0; j < w.k; ++j) {
        codes[std::int64_t{r} * w.k + j] = static_cast<std::int8_t>(Block::get(w.data, w.k, r, j));
      }
    }
  }

  static void unpack(const Packed& w, float* out) {
    const Stored held = stored(w);
    for (int r = 0; r < w.n; ++r) {
      for (int j = 0; j < w.k; ++j) {
        out[std::int64_t{r} * w.k + j] =
            scale_at(held, r, j / w.group) * static_cast<float>(Block::get(w.data, w.k, r, j));
      }
    }
  }

  // For the integer products, as in shared/row_scaled.h.
  template <Axis axis>
  static constexpr int panel_bits() {
    return axis == Axis::k ? 4 : 8;
  }
  template <Axis axis>
  static constexpr int zero() {
    return 1 << (panel_bits<axis>() - 1);
  }
  template <Axis axis>
  static int panel_depth(const Shape& w, int most) {
    return axis == Axis::k ? min(w.group, most) : most;
  }
  template <class I>
  static void output_scales(const Packed& w, int o, int s, float* out) {
    const Stored held = stored(w);
    I::from_half(held.of(o, s / w.group), out);
    for (int i = 0; i < kLanes; i += I::kWidth) {
      I::store(out + i, I::load(held.unit + o + i) * I::load(out + i));
    }
  }
  static const float* sum_scales(const Packed& w) { return stored(w).back; }

  // Along n: tables of the codes of 8 bits for 16 rows, for the columns of one group.
  static bool same_decoder(const Packed& w, int first, int last) {
    return first / w.group == last / w.group;
  }
  template <class T>
  struct Decoder {
    static constexpr bool kPlain = false;
    typename T::Bytes tables[T::kParts];

    Decoder() = default;
    Decoder(const Packed& w, int row, int column) {
      using I = typename T::Vector;
      const Stored held = stored(w);
      alignas(64) float steps[kLanes];  // of a code, in steps of `back`
      const std::uint16_t* const scales = held.of(row, min(column, w.k - 1) / w.group);
      // Those that the next panel's depth has: a line of their own for each 16 rows, out of order.
      __builtin_prefetch(scales + std::int64_t{T::kPanelDepth} * held.groups);
      I::from_half(scales, steps);
      for (int i = 0; i < kLanes; i += I::kWidth) {
        I::store(steps + i, I::load(steps + i) * I::load(held.step + row + i));
      }
      T::make_tables(steps, tables);
    }
    typename T::Bytes operator()(typename T::Bytes codes, int part) const {
      return T::lookup(tables[part], codes);
    }
    // Of codes that are interleaved already.
    [[nodiscard]] typename T::Bytes quads(typename T::Bytes codes, int part) const {
      return T::lookup_quads(tables[part], codes);
    }
  };
};

}  // namespace
}  // namespace kt
