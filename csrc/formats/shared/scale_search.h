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

// What a scale is worth, |<w, q>| / |q| in units of 1 / per_unit, and the better one that its codes
// ask for.
struct Fit {
  float worth;
  float scale;
};

template <class I>
Fit fit(const FloatRow& row, int from, int to, float scale, float per_unit, float low, float high) {
  const auto inverse = I::set1(1.0F / scale);
  auto wq = I::set1(0.0F);
  auto qq = I::set1(0.0F);
  for (int j = from; j < to; j += I::kWidth) {
    const auto w = row.at<I>(j, to);
    const auto q = to_codes<I>(w, inverse, low, high);
    wq = wq + w * I::set1(per_unit) * q;
    qq = qq + q * q;
  }
  const float dot = I::sum(wq);
  const float norm = I::sum(qq);
  if (!(norm > 0.0F)) return {0.0F, scale};
  const float size = dot < 0.0F ? -dot : dot;
  return {size / __builtin_sqrtf(norm), dot / norm / per_unit};
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
  const auto per_unit = __builtin_bit_cast(float, 0x7f000000U - exponent);
  // Down to a sixth with four bits, where normal weights want 0.7 and heavy tails 0.3; with eight a
  // half is little enough.
  const int steps = low < -8 ? 10 : 24;
  constexpr float kStep = 0.93F;
  Fit best{0.0F, widest};
  const auto consider = [&](float scale) {
    const Fit next =
        fit<I>(row, from, to, scale, per_unit, static_cast<float>(low), static_cast<float>(high));
    if (next.worth > best.worth) best = next;
  };
  float scale = widest;
  for (int i = 0; i < steps; ++i, scale *= kStep) consider(scale);
  // Where codes reach less far to the other side, wider still: weights of both signs whose extremes
  // are alike fit there, and groups of 32 normal ones err 1% less.
  if (-low > high) consider(widest * static_cast<float>(-low) / static_cast<float>(high));
  // With eight bits there are many shallow valleys, a few percent apart: normal rows of 7168 err 2%
  // less at the lowest nearby.
  if (low < -8) {
    const float middle = best.scale;
    constexpr float kNearby[] = {0.97F, 0.98F, 0.99F, 1.01F, 1.02F, 1.03F};
    for (const float factor : kNearby) consider(factor * middle);
  }
  constexpr int kImprovements = 2;
  for (int i = 0; i < kImprovements; ++i) {
    const Fit next = fit<I>(row, from, to, best.scale, per_unit, static_cast<float>(low),
                            static_cast<float>(high));
    if (next.worth >= best.worth) best = next;
  }
  return best.scale;
}

}  // namespace
}  // namespace kt
