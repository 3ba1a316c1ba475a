// Scales of least squared error. With codes q = clip(round(w / s)) the error sum (w - s q)^2 is
// least, for these q, at s = <w, q> / <q, q>, where it is <w, w> - <w, q>^2 / <q, q>: a scale is as
// good as |<w, q>| / |q| is large. The search starts where the extreme weight gets the lowest
// code, tries ever smaller scales and one that is wider, and improves the best by that formula
// (Lloyd's iteration for a uniform quantizer: Lloyd, "Least squares quantization in PCM", 1982).
//
// Its figures are in docs/rounding.md.
#pragma once

namespace kt {
namespace {

// The weight of columns [from, to) that is largest in magnitude, with its sign.
template <class I>
float extreme(const FloatRow& row, int from, int to) {
  auto high = I::set1(0.0F);
  auto low = I::set1(0.0F);
  for (int j = from; j < to; j += I::kWidth) {
    const auto w = row.at<I>(j, to);
    high = I::maximum(high, w);
    low = I::minimum(low, w);
  }
  alignas(64) float highs[I::kWidth];
  alignas(64) float lows[I::kWidth];
  I::store(highs, high);
  I::store(lows, low);
  float most = 0.0F;
  float least = 0.0F;
  for (int i = 0; i < I::kWidth; ++i) {
    most = highs[i] > most ? highs[i] : most;
    least = lows[i] < least ? lows[i] : least;
  }
  return most > -least ? most : least;
}

// Weights that are to have one scale, and what their codes may be.
struct Piece {
  FloatRow row;
  int from, to;  // columns
  float low, high;
  float per_unit;  // sums are taken in units of 1 / per_unit
};

// What a scale is worth, |<w, q>| / |q| in those units, and the better one that its codes ask for.
struct Fit {
  float worth;
  float scale;
};

// The fits of `count` scales in one pass over the weights: those of one scale would wait for its
// two chains of additions, four cycles for each vector of seven instructions. What it gains is in
// docs/rounding.md.
template <class I, int count>
void fit(const Piece& piece, const float* scale, Fit* fits) {
  typename I::F inverse[count];
  typename I::F wq[count];
  typename I::F qq[count];
  KT_UNROLL for (int i = 0; i < count; ++i) {
    inverse[i] = I::set1(1.0F / scale[i]);
    wq[i] = qq[i] = I::set1(0.0F);
  }
  for (int j = piece.from; j < piece.to; j += I::kWidth) {
    const auto w = piece.row.at<I>(j, piece.to);
    const auto in_units = w * I::set1(piece.per_unit);
    KT_UNROLL for (int i = 0; i < count; ++i) {
      const auto q = to_codes<I>(w, inverse[i], piece.low, piece.high);
      wq[i] = wq[i] + in_units * q;
      qq[i] = qq[i] + q * q;
    }
  }
  KT_UNROLL for (int i = 0; i < count; ++i) {
    const float dot = I::sum(wq[i]);
    const float norm = I::sum(qq[i]);
    const float size = dot < 0.0F ? -dot : dot;
    const bool all_zero = !(norm > 0.0F);
    fits[i] = all_zero ? Fit{0.0F, scale[i]}
                       : Fit{size / __builtin_sqrtf(norm), dot / norm / piece.per_unit};
  }
}

// The best of a scale and `count` others, the first of equals.
template <class I>
Fit best_of(Fit best, const Piece& piece, const float* scales, int count) {
  constexpr int kAtOnce = 4;
  for (int i = 0; i < count;) {
    Fit fits[kAtOnce];
    const int left = count - i;
    const int now = left >= kAtOnce ? kAtOnce : left >= 2 ? 2 : 1;
    if (now == kAtOnce) {
      fit<I, kAtOnce>(piece, scales + i, fits);
    } else if (now == 2) {
      fit<I, 2>(piece, scales + i, fits);
    } else {
      fit<I, 1>(piece, scales + i, fits);
    }
    for (int j = 0; j < now; ++j) best = fits[j].worth > best.worth ? fits[j] : best;
    i += now;
  }
  return best;
}

// The scale of columns [from, to) of a row for codes low .. high; 0 for weights that are all zero
// (or so small that 1 / scale overflows).
template <class I>
float best_scale(const FloatRow& row, int from, int to, int low, int high) {
  const float end = extreme<I>(row, from, to);
  const float widest =
      end / static_cast<float>(low);  // the extreme becomes `low`, whatever its sign
  constexpr float kLeast = 1e-37F;
  if (widest <= kLeast && widest >= -kLeast) return 0.0F;
  // Sums of large weights would overflow, so they are taken in units of the power of two below
  // `widest`. An exponent e + 127 is 254 less that of the inverse.
  const auto exponent = __builtin_bit_cast(std::uint32_t, widest) & 0x7f800000U;
  const Piece piece{row,
                    from,
                    to,
                    static_cast<float>(low),
                    static_cast<float>(high),
                    __builtin_bit_cast(float, 0x7f000000U - exponent)};
  // Down to a sixth with four bits, where normal weights want 0.7 and heavy tails 0.3; with eight a
  // half is little enough.
  constexpr int kMost = 25;
  const int steps = low < -8 ? 10 : kMost - 1;
  constexpr float kStep = 0.93F;
  float scales[kMost];
  scales[0] = widest;
  for (int i = 1; i < steps; ++i) scales[i] = scales[i - 1] * kStep;
  // Where codes reach less far to the other side, wider still: weights of both signs whose extremes
  // are alike fit there, and groups of 32 normal ones err 1% less.
  scales[steps] = widest * static_cast<float>(-low) / static_cast<float>(high);
  Fit best = best_of<I>({0.0F, widest}, piece, scales, -low > high ? steps + 1 : steps);
  // With eight bits there are many shallow valleys, a few percent apart: normal rows of 7168 err 2%
  // less at the lowest nearby.
  if (low < -8) {
    float nearby[] = {0.97F, 0.98F, 0.99F, 1.01F, 1.02F, 1.03F};
    for (float& scale : nearby) scale *= best.scale;
    best = best_of<I>(best, piece, nearby, 6);
  }
  constexpr int kImprovements = 2;
  for (int i = 0; i < kImprovements; ++i) {
    Fit next;
    fit<I, 1>(piece, &best.scale, &next);
    if (next.worth >= best.worth) best = next;
  }
  return best.scale;
}

}  // namespace
}  // namespace kt
