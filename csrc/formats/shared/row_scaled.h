// Integer codes with a scale per row (output channel): w[n][k] = scale[n] * code[n][k].
//
// Layout: the codes (codes.h), then float32 scales [n padded to 16], zero past n.
//
// Along k a row's scale multiplies its output. Along n the sum runs over rows: each row's scale
// goes into A before A is rounded, so that the same codes serve both directions.
#pragma once

namespace kt {
namespace {

template <int bits, int low, int high>
struct RowScaled {
  using Block = BlockCodes<bits>;
  static constexpr Integers kIntegers{low, high, false};

  static std::size_t bytes(const Shape& shape) {
    return Block::bytes(shape) +
           sizeof(float) * static_cast<std::size_t>(round_up(shape.n, kLanes));
  }
  static float* scales(const Shape& shape, std::byte* data) {
    return reinterpret_cast<float*>(data + Block::bytes(shape));
  }
  static const float* scales(const Packed& w) {
    return reinterpret_cast<const float*>(w.data + Block::bytes(w));
  }

  template <class I>
  static void pack(const Rows& source, int n0, int n1, const Shape& shape, std::byte* out) {
    float* const scale = scales(shape, out);
    for (int r = n0; r < round_up(n1, kLanes); ++r) scale[r] = 0.0F;
    for (int r = n0; r < n1; ++r) {
      scale[r] = best_scale<I>({source.row(r), source.dtype}, 0, shape.k, low, high);
    }
    Block::store_rows(n0, n1, shape, out, [&](int r, int j, int count, std::int8_t* codes) {
      round_codes<I>({source.row(r), source.dtype}, j, count, scale[r], low, high, codes);
    });
  }

  static void pack_codes(const Codes& source, int n0, int n1, const Shape& shape, std::byte* out) {
    float* const scale = scales(shape, out);
    for (int r = n0; r < round_up(n1, kLanes); ++r) {
      scale[r] = r < shape.n ? source.scales[r * source.scale_stride] : 0.0F;
    }
    Block::store_rows(n0, n1, shape, out, [&](int r, int j, int count, std::int8_t* codes) {
      __builtin_memcpy(codes, source.codes + r * source.stride + j,
                       static_cast<std::size_t>(count));
    });
  }

  static void unpack_codes(const Packed& w, std::int8_t* codes, float* scale) {
    for (int r = 0; r < w.n; ++r) {
      scale[r] = scales(w)[r];
      for (int j = 0; j < w.k; ++j) {
        codes[std::int64_t{r} * w.k + j] = static_cast<std::int8_t>(Block::get(w.data, w.k, r, j));
      }
    }
  }

  static void unpack(const Packed& w, float* out) {
    for (int r = 0; r < w.n; ++r) {
      for (int j = 0; j < w.k; ++j) {
        out[std::int64_t{r} * w.k + j] =
            scales(w)[r] * static_cast<float>(Block::get(w.data, w.k, r, j));
      }
    }
  }

  // For the integer products: how large the panel's codes are and what their zero is, how deep a
  // panel may be, the scales of 16 outputs along k from sum s on, and what multiplies A's columns
  // along n.
  template <Axis axis>
  static constexpr int panel_bits() {
    return bits;
  }
  template <Axis axis>
  static constexpr int zero() {
    return Block::kZero;
  }
  template <Axis axis>
  static int panel_depth(const Shape& /*w*/, int most) {
    return most;
  }
  template <class I>
  static void output_scales(const Packed& w, int o, int /*s*/, float* out) {
    for (int i = 0; i < kLanes; i += I::kWidth) I::store(out + i, I::load(scales(w) + o + i));
  }
  static const float* sum_scales(const Packed& w) { return scales(w); }

  // Along n: codes as stored.
  static bool same_decoder(const Packed& /*w*/, int /*first*/, int /*last*/) { return true; }
  template <class T>
  struct Decoder {
    static constexpr bool kPlain = true;
    Decoder() = default;
    Decoder(const Packed& /*w*/, int /*row*/, int /*column*/) {}
    typename T::Bytes operator()(typename T::Bytes codes, int /*part*/) const { return codes; }
    [[nodiscard]] typename T::Bytes quads(typename T::Bytes codes, int /*part*/) const {
      return codes;
    }
  };
};

}  // namespace
}  // namespace kt
