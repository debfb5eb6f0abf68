// Elementary functions of vectors. Polynomials of exp, log and tanh from Moshier's Cephes library; erfc is
// the Chebyshev fit of Press et al., "Numerical Recipes" (relative error below 1.2e-7).
#pragma once

#include "simd.h"

namespace FASTCOMB_LEVEL {

FASTCOMB_INLINE F power_of_two(I n) { return (F)((n + 127) << 23); }

FASTCOMB_INLINE F exponential(F x) {
  const F y = minimum(set1(89.0f), maximum(set1(-104.0f), x));
  const F n = nearest(y * set1(1.44269504088896341f));
  F r = fma(n, set1(-0.693359375f), y);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  const I e = to_int(n), half = e >> 1;
  const F scaled = p * power_of_two(half) * power_of_two(e - half);
  return select((I)(x == x), scaled, x);
}

// Natural logarithm of positive, normal numbers.
FASTCOMB_INLINE F logarithm(F x) {
  const I bits = (I)x;
  I e = (bits >> 23) - 126;
  F m = (F)((bits & 0x7fffff) | 0x3f000000);  // [0.5, 1)
  const I small = (I)(m < 0.707106781186547524f);
  e += small;  // a mask is -1
  m = select(small, m + m, m) - set1(1.0f);
  const F z = m * m;
  F p = set1(7.0376836292e-2f);
  p = fma(p, m, set1(-1.1514610310e-1f));
  p = fma(p, m, set1(1.1676998740e-1f));
  p = fma(p, m, set1(-1.2420140846e-1f));
  p = fma(p, m, set1(1.4249322787e-1f));
  p = fma(p, m, set1(-1.6668057665e-1f));
  p = fma(p, m, set1(2.0000714765e-1f));
  p = fma(p, m, set1(-2.4999993993e-1f));
  p = fma(p, m, set1(3.3333331174e-1f));
  const F k = to_float(e);
  F r = fma(k, set1(-2.12194440e-4f), p * m * z);
  r = fma(z, set1(-0.5f), r) + m;
  r = fma(k, set1(0.693359375f), r);
  return select((I)(x < __builtin_inff()), r, x);
}

// log(1 + x) for x in [0, 1], to full relative precision: what 1 + x lost is made up for (Kahan).
FASTCOMB_INLINE F logarithm_of_one_plus(F x) {
  const F one = set1(1.0f), u = one + x;
  return select((I)(u == one), x, logarithm(u) * (x / (u - one)));
}

FASTCOMB_INLINE F absolute(F x) { return (F)((U)x & 0x7fffffffu); }
FASTCOMB_INLINE F with_sign(F x, F sign) { return (F)(((U)x & 0x7fffffffu) | ((U)sign & 0x80000000u)); }

FASTCOMB_INLINE F sigmoid(F x) { return set1(1.0f) / (set1(1.0f) + exponential(-x)); }

FASTCOMB_INLINE F hyperbolic_tangent(F x) {
  const F a = absolute(x), z = x * x;
  F p = set1(-5.70498872745e-3f);
  p = fma(p, z, set1(2.06390887954e-2f));
  p = fma(p, z, set1(-5.37397155531e-2f));
  p = fma(p, z, set1(1.33314422036e-1f));
  p = fma(p, z, set1(-3.33332819422e-1f));
  const F inner = fma(p * z, x, x);
  const F outer = set1(1.0f) - set1(2.0f) / (exponential(a + a) + set1(1.0f));
  return select((I)(a < 0.625f), inner, with_sign(outer, x));
}

FASTCOMB_INLINE F erfc(F x) {
  const F a = absolute(x), t = set1(1.0f) / fma(a, set1(0.5f), set1(1.0f));
  F p = set1(0.17087277f);
  const float more[] = {-0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f, -0.18628806f,
                        0.09678418f,  0.37409196f, 1.00002368f,  -1.26551223f};
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i) p = fma(p, t, set1(more[i]));
  const F tail = t * exponential(p - a * a);
  return select((I)(x < 0.0f), set1(2.0f) - tail, tail);
}

}  // namespace FASTCOMB_LEVEL
