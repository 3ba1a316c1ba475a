// SwiGLU, forward and backward: H = silu(G) * U, silu(x) = x sig(x), sig(x) = 1 / (1 + e^-x).
#pragma once

namespace kt {
namespace {

// e^x by Cody-Waite reduction to |r| <= ln2 / 2 and a polynomial of degree 6 (the Taylor terms,
// relative error 2e-7 there); x is clamped to where e^x is a normal float.
template <class I>
typename I::F exp(typename I::F x) {
  using F = typename I::F;
  x = I::minimum(I::maximum(x, I::set1(-87.3F)), I::set1(88.0F));
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
  const F magic = I::set1(12582912.0F);
  const F sum = x * I::set1(1.44269504F) + magic;
  const F n = sum - magic;
  const F r = (x - n * I::set1(0.693359375F)) - n * I::set1(-2.12194440e-4F);
  F p = I::set1(1.0F / 720);
  p = p * r + I::set1(1.0F / 120);
  p = p * r + I::set1(1.0F / 24);
  p = p * r + I::set1(1.0F / 6);
  p = p * r + I::set1(0.5F);
  p = p * r + I::set1(1.0F);
  p = p * r + I::set1(1.0F);
  return I::scale_by_power(p, sum);
}

template <class I>
typename I::F sigmoid(typename I::F x) {
  const auto one = I::set1(1.0F);
  return one / (one + exp<I>(-x));
}

template <class I>
void swiglu(const float* g, const float* u, int ldc, int m, int n, act_t* gate, act_t* up, act_t* h,
            std::int64_t stride) {
  for (int i = 0; i < m; ++i, g += ldc, u += ldc) {
    for (int j = 0; j < n; j += I::kWidth) {
      const auto x = I::load(g + j);
      const auto y = I::load(u + j);
      const std::int64_t at = i * stride + j;
      if (gate != nullptr) {
        I::store(gate + at, x);
        I::store(up + at, y);
      }
      I::store(h + at, x * sigmoid<I>(x) * y);
    }
  }
}

// With dH' before the routing weight r: dH = r dH', dU = dH silu(G),
// dG = dH U sig(G) (1 + G (1 - sig(G))), and dr = <dH', H>, since dr = <dOut, Y> and Y is linear
// in H.
template <class I>
void swiglu_backward(const float* dh, int ldh, const float* r, int m, int n, const act_t* gate,
                     const act_t* up, act_t* dgate, act_t* dup, act_t* h, std::int64_t stride,
                     float* dr, std::int64_t dr_stride) {
  const auto one = I::set1(1.0F);
  for (int i = 0; i < m; ++i) {
    auto sum = I::set1(0.0F);
    const auto weight = I::set1(r[i]);
    for (int j = 0; j < n; j += I::kWidth) {
      const std::int64_t at = i * stride + j;
      const auto d = I::load(dh + static_cast<std::int64_t>(i) * ldh + j);
      const auto x = I::load(gate + at);
      const auto y = I::load(up + at);
      const auto sig = sigmoid<I>(x);
      const auto silu = x * sig;
      const auto out = silu * y;
      const auto scaled = weight * d;
      sum = sum + d * out;
      I::store(h + at, out);
      I::store(dup + at, scaled * silu);
      I::store(dgate + at, scaled * y * sig * (one + x * (one - sig)));
    }
    dr[i * dr_stride] = I::sum(sum);
  }
}

}  // namespace
}  // namespace kt
