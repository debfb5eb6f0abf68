// Element-wise work, strided: activations, arithmetic with broadcasting, affine maps per channel.
#pragma once

#include "functions.h"
#include "kernels.h"

namespace FASTCOMB_LEVEL {

using fastcomb::kMaxDims;

// Operands over a strided block, sizes outermost first; a stride of 0 repeats.
struct Elementwise {
  const int64_t* size;
  const void* x;
  const void* y;
  void* out;
  const int64_t *x_stride, *y_stride, *out_stride;
  float alpha = 0, beta = 0;
  bool relu = false;
};

constexpr int64_t kNoStride[kMaxDims] = {};

template <class T>
FASTCOMB_INLINE F take(const T* p, int64_t stride, int n) {
  if (stride == 1) return n == W ? load(p) : load_n(p, n);
  if (stride == 0) return set1(widen(*p));
  float own[W] = {};
  for (int l = 0; l < n; ++l) own[l] = widen(p[l * stride]);
  return load(own);
}
template <class T>
FASTCOMB_INLINE void put(T* p, int64_t stride, F v, int n) {
  if (stride == 1) {
    if (n == W) keep(p, v);
    else keep_n(p, v, n);
    return;
  }
  for (int l = 0; l < n; ++l) assign(p + l * stride, v[l]);
}

// f(x, y, out) at the start of each innermost run; dimensions 0 to 4 are the outer ones.
template <class T, class Run>
FASTCOMB_INLINE void for_runs(const Elementwise& e, const Run& run) {
  const int64_t* n = e.size;
  for (int64_t i0 = 0; i0 < n[0]; ++i0)
    for (int64_t i1 = 0; i1 < n[1]; ++i1)
      for (int64_t i2 = 0; i2 < n[2]; ++i2)
        for (int64_t i3 = 0; i3 < n[3]; ++i3) {
          const auto at = [&](const int64_t* s) { return i0 * s[0] + i1 * s[1] + i2 * s[2] + i3 * s[3]; };
          const T* x = (const T*)e.x + at(e.x_stride);
          const T* y = (const T*)e.y + at(e.y_stride);
          T* out = (T*)e.out + at(e.out_stride);
          for (int64_t i4 = 0; i4 < n[4]; ++i4) {
            run(x, y, out);
            x += e.x_stride[4];
            y += e.y_stride[4];
            out += e.out_stride[4];
          }
        }
}

FASTCOMB_INLINE F each_lane(F x, float (*f)(float)) {
  for (int l = 0; l < W; ++l) x[l] = f(x[l]);
  return x;
}
FASTCOMB_INLINE F each_lane(F x, F y, float (*f)(float, float)) {
  for (int l = 0; l < W; ++l) x[l] = f(x[l], y[l]);
  return x;
}
FASTCOMB_INLINE F one_where(I mask) { return select(mask, set1(1), set1(0)); }

template <int OP>
FASTCOMB_INLINE F apply(F x, float alpha, float beta) {
  using namespace fastcomb;
  const F zero = set1(0), one = set1(1);
  if (OP == kRelu) return maximum(zero, x);
  if (OP == kLeakyRelu) return select((I)(x > 0.0f), x, x * alpha);
  if (OP == kGelu) return set1(0.5f) * x * erfc(x * -0.70710678118654752f);
  if (OP == kGeluTanh) {
    const F inner = x * 0.79788456080286536f * fma(x * x, set1(0.044715f), one);
    return set1(0.5f) * x * (one + hyperbolic_tangent(inner));
  }
  if (OP == kSilu) return x * sigmoid(x);
  if (OP == kTanh) return hyperbolic_tangent(x);
  if (OP == kSigmoid) return sigmoid(x);
  if (OP == kElu) return select((I)(x > 0.0f), x, alpha * each_lane(minimum(zero, x) * beta, expm1f));
  if (OP == kHardtanh) return minimum(set1(beta), maximum(set1(alpha), x));
  if (OP == kHardsigmoid) return minimum(one, maximum(zero, fma(x, set1(1.0f / 6), set1(0.5f))));
  if (OP == kHardswish) return x * minimum(one, maximum(zero, fma(x, set1(1.0f / 6), set1(0.5f))));
  if (OP == kSoftplus) {  // alpha: beta of torch; beta: its threshold
    const F y = x * alpha;
    return select((I)(y > beta), x, each_lane(exponential(minimum(set1(beta), y)), log1pf) / alpha);
  }
  if (OP == kMish) {  // tanh(log(1 + e)) = n / (n + 2) for n = e (e + 2), which is 1 in float32 from x = 20 on
    const F e = exponential(minimum(set1(20.0f), x)), n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
  }
  if (OP == kSelu)  // torch's scale, and its product with torch's alpha
    return select((I)(x > 0.0f), 1.0507009873554805f * x, 1.7580993408473768f * each_lane(minimum(zero, x), expm1f));
  if (OP == kExp) return select((I)(x > 88.72283f), set1(__builtin_inff()), exponential(x));
  if (OP == kNeg) return -x;
  if (OP == kAbs) return absolute(x);
  if (OP == kSqrt) return root(x);
  if (OP == kRsqrt) return one / root(x);
  if (OP == kReciprocal) return one / x;
  if (OP == kSquare) return x * x;
  if (OP == kPow) return alpha == 3.0f ? x * x * x : each_lane(x, set1(alpha), powf);
  if (OP == kPowerOf) return each_lane(set1(alpha), x, powf);
  if (OP == kLog) return each_lane(x, logf);
  if (OP == kLog1p) return each_lane(x, log1pf);
  if (OP == kExpm1) return each_lane(x, expm1f);
  if (OP == kSin) return each_lane(x, sinf);
  if (OP == kCos) return each_lane(x, cosf);
  if (OP == kErf) return each_lane(x, erff);
  if (OP == kSign) return one_where((I)(x > 0.0f)) - one_where((I)(x < 0.0f));
  if (OP == kFloor) return each_lane(x, floorf);
  if (OP == kCeil) return each_lane(x, ceilf);
  if (OP == kThreshold) return select((I)(x <= alpha), set1(beta), x);
  if (OP == kHardshrink) return select((I)(absolute(x) <= alpha), zero, x);
  if (OP == kSoftshrink) return select((I)(x > alpha), x - alpha, select((I)(x < -alpha), x + alpha, x * 0.0f));
  if (OP == kLogSigmoid) return minimum(zero, x) - each_lane(exponential(-absolute(x)), log1pf);
  if (OP == kLogicalNot) return one_where((I)(x == 0.0f));
  if (OP == kTan) return each_lane(x, tanf);
  if (OP == kAsin) return each_lane(x, asinf);
  if (OP == kAcos) return each_lane(x, acosf);
  if (OP == kAtan) return each_lane(x, atanf);
  if (OP == kSinh) return each_lane(x, sinhf);
  if (OP == kCosh) return each_lane(x, coshf);
  if (OP == kExp2) return each_lane(x, exp2f);
  if (OP == kLog2) return each_lane(x, log2f);
  if (OP == kLog10) return each_lane(x, log10f);
  if (OP == kErfc) return each_lane(x, erfcf);
  if (OP == kRound) return each_lane(x, rintf);
  if (OP == kTrunc) return each_lane(x, truncf);
  return x;
}

template <class T, int OP>
static void unary_op(const Elementwise& e) {
  const int64_t n = e.size[5], xs = e.x_stride[5], os = e.out_stride[5];
  for_runs<T>(e, [&](const T* x, const T*, T* out) {
    for (int64_t i = 0; i < n; i += W) {
      const int some = (int)smaller(W, n - i);
      put(out + i * os, os, apply<OP>(take(x + i * xs, xs, some), e.alpha, e.beta), some);
    }
  });
}

template <class T>
static void unary_as(const Elementwise& e, int function) {
  using namespace fastcomb;
  switch (function) {
#define FUNCTION(name, constant) \
  case constant: return unary_op<T, constant>(e);
#include "../ops.def"
  }
}

template <int OP>
FASTCOMB_INLINE F apply(F u, F v, float alpha) {
  using namespace fastcomb;
  if (OP == kAdd) return u + v * alpha;
  if (OP == kSub) return u - v * alpha;
  if (OP == kMul) return u * v;
  if (OP == kDiv) return u / v;
  if (OP == kMaximum) return select((I)(u > v) | (I)(u != u), u, v);  // a NaN wins
  if (OP == kMinimum) return select((I)(u < v) | (I)(u != u), u, v);
  if (OP == kPower) return each_lane(u, v, powf);
  if (OP == kPrelu) return select((I)(u > 0.0f), u, u * v);
  if (OP == kEq) return one_where((I)(u == v));
  if (OP == kNe) return one_where((I)(u != v));
  if (OP == kLt) return one_where((I)(u < v));
  if (OP == kLe) return one_where((I)(u <= v));
  if (OP == kGt) return one_where((I)(u > v));
  return one_where((I)(u >= v));
}

template <class T, int OP>
static void binary_op(const Elementwise& e) {
  const int64_t n = e.size[5], xs = e.x_stride[5], ys = e.y_stride[5], os = e.out_stride[5];
  for_runs<T>(e, [&](const T* x, const T* y, T* out) {
    for (int64_t i = 0; i < n; i += W) {
      const int some = (int)smaller(W, n - i);
      const F u = take(x + i * xs, xs, some), v = take(y + i * ys, ys, some);
      put(out + i * os, os, apply<OP>(u, v, e.alpha), some);
    }
  });
}

template <class T>
static void binary_as(const Elementwise& e, int function) {
  using namespace fastcomb;
  switch (function) {
#define ARITHMETIC(name, constant) \
  case constant: return binary_op<T, constant>(e);
#include "../ops.def"
  }
}

template <class T>
static void choose_as(const fastcomb::Choose& c) {
  const int64_t *n = c.size, *cs = c.condition_stride, *xs = c.x_stride, *ys = c.y_stride, *os = c.out_stride;
  for (int64_t i0 = 0; i0 < n[0]; ++i0)
    for (int64_t i1 = 0; i1 < n[1]; ++i1)
      for (int64_t i2 = 0; i2 < n[2]; ++i2)
        for (int64_t i3 = 0; i3 < n[3]; ++i3)
          for (int64_t i4 = 0; i4 < n[4]; ++i4) {
            const auto at = [&](const int64_t* s) { return i0 * s[0] + i1 * s[1] + i2 * s[2] + i3 * s[3] + i4 * s[4]; };
            const T *condition = (const T*)c.condition + at(cs), *x = (const T*)c.x + at(xs),
                    *y = (const T*)c.y + at(ys);
            T* out = (T*)c.out + at(os);
            for (int64_t i = 0; i < n[5]; i += W) {
              const int some = (int)smaller(W, n[5] - i);
              const F mask = take(condition + i * cs[5], cs[5], some);
              const F u = take(x + i * xs[5], xs[5], some), v = take(y + i * ys[5], ys[5], some);
              put(out + i * os[5], os[5], select((I)(mask != 0.0f), u, v), some);
            }
          }
}

FASTCOMB_INLINE bool compared(int function, int64_t x, int64_t y) {
  using namespace fastcomb;
  switch (function) {
    case kEq: return x == y;
    case kNe: return x != y;
    case kLt: return x < y;
    case kLe: return x <= y;
    case kGt: return x > y;
    default: return x >= y;
  }
}

template <class T>
static void integers_as(const fastcomb::Integers& c) {
  const int64_t *n = c.size, *xs = c.x_stride, *ys = c.y_stride, *os = c.out_stride;
  for (int64_t i0 = 0; i0 < n[0]; ++i0)
    for (int64_t i1 = 0; i1 < n[1]; ++i1)
      for (int64_t i2 = 0; i2 < n[2]; ++i2)
        for (int64_t i3 = 0; i3 < n[3]; ++i3)
          for (int64_t i4 = 0; i4 < n[4]; ++i4)
            for (int64_t i5 = 0; i5 < n[5]; ++i5) {
              const auto at = [&](const int64_t* s) {
                return i0 * s[0] + i1 * s[1] + i2 * s[2] + i3 * s[3] + i4 * s[4] + i5 * s[5];
              };
              const int64_t x = c.x[at(xs)];
              assign((T*)c.out + at(os), c.y ? (float)compared(c.function, x, c.y[at(ys)]) : (float)x);
            }
}

template <class T>
static void cumsum_as(const fastcomb::Cumsum& c) {
  const Elementwise lines{c.size, c.x, nullptr, c.out, c.x_stride, kNoStride, c.out_stride};
  const int64_t n = c.size[5], xs = c.x_stride[5], os = c.out_stride[5];
  for_runs<T>(lines, [&](const T* x, const T*, T* out) {
    float sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += widen(x[i * xs]);
      assign(out + i * os, sum);
    }
  });
}

// out = x * scale[c] + shift[c] (+ y), then ReLU where e.op is 1; c runs along the innermost dimension, whose
// strides are 1.
template <class T>
static void affine_as(const Elementwise& e, const float* scale, const float* shift) {
  for (int64_t c = 0; c < e.size[5]; c += W) {
    const int n = (int)smaller(W, e.size[5] - c);
    const F factor = take(scale + c, 1, n), offset = take(shift + c, 1, n);
    for_runs<T>(e, [&](const T* x, const T* y, T* out) {
      F v = fma(take(x + c, 1, n), factor, offset);
      if (e.y) v = v + take(y + c, 1, n);
      if (e.relu) v = maximum(set1(0), v);
      put(out + c, 1, v, n);
    });
  }
}

// Per channel (innermost): pivot, and sums of the values less the pivot and of their squares.
template <class T, class Take>
FASTCOMB_INLINE void moments_of(const Elementwise& e, int64_t c, int n, float* pivot, double* sum, double* squares,
                                const Take& take_at) {
  constexpr int chains = 4;  // sums side by side: one alone waits for its additions
  const int64_t pixels = e.size[4], step = e.x_stride[4];
  F first = set1(0);
  for (int64_t i = 0; i < pixels; ++i) first = first + take_at((const T*)e.x + i * step + c);
  const F p = first / (float)pixels;
  store_n(pivot + c, p, n);
  const int64_t once[kMaxDims] = {e.size[0], e.size[1], e.size[2], e.size[3], 1, e.size[5]};
  Elementwise lines = e;
  lines.size = once;
  double total[W] = {}, total2[W] = {};
  for_runs<T>(lines, [&](const T* x, const T*, T*) {
    F s[chains] = {}, q[chains] = {};
    int64_t i = 0;
    for (; i + chains <= pixels; i += chains)
#pragma GCC unroll 4
      for (int k = 0; k < chains; ++k) {
        const F d = take_at(x + (i + k) * step + c) - p;
        s[k] = s[k] + d;
        q[k] = fma(d, d, q[k]);
      }
    for (; i < pixels; ++i) {
      const F d = take_at(x + i * step + c) - p;
      s[0] = s[0] + d;
      q[0] = fma(d, d, q[0]);
    }
    const F own = (s[0] + s[1]) + (s[2] + s[3]), own2 = (q[0] + q[1]) + (q[2] + q[3]);
    for (int l = 0; l < W; ++l) total[l] += own[l], total2[l] += own2[l];
  });
  for (int l = 0; l < n; ++l) sum[c + l] = total[l], squares[c + l] = total2[l];
}

template <class T>
static void moments_as(const Elementwise& e, float* pivot, double* sum, double* squares) {
  const int64_t channels = e.size[5];
  for (int64_t c = 0; c < channels; c += W) {
    const int n = (int)smaller(W, channels - c);
    if (n == W) moments_of<T>(e, c, n, pivot, sum, squares, [](const T* x) { return load(x); });
    else moments_of<T>(e, c, n, pivot, sum, squares, [n](const T* x) { return load_n(x, n); });
  }
}

static void unary(const fastcomb::Unary& u, int dtype) {
  const Elementwise e{u.size, u.x, nullptr, u.out, u.x_stride, kNoStride, u.out_stride, u.alpha, u.beta};
  dtype == fastcomb::kFloat32 ? unary_as<float>(e, u.function) : unary_as<bf16>(e, u.function);
}
static void binary(const fastcomb::Binary& b, int dtype) {
  const Elementwise e{b.size, b.x, b.y, b.out, b.x_stride, b.y_stride, b.out_stride, b.alpha};
  dtype == fastcomb::kFloat32 ? binary_as<float>(e, b.function) : binary_as<bf16>(e, b.function);
}
static void choose(const fastcomb::Choose& c, int dtype) {
  dtype == fastcomb::kFloat32 ? choose_as<float>(c) : choose_as<bf16>(c);
}
static void integers(const fastcomb::Integers& c, int dtype) {
  dtype == fastcomb::kFloat32 ? integers_as<float>(c) : integers_as<bf16>(c);
}
static void cumsum(const fastcomb::Cumsum& c, int dtype) {
  dtype == fastcomb::kFloat32 ? cumsum_as<float>(c) : cumsum_as<bf16>(c);
}
static void affine(const fastcomb::Affine& a, int dtype) {
  const Elementwise e{a.size, a.x, a.y, a.out, a.x_stride, a.y_stride, a.out_stride, 0, 0, a.relu};
  dtype == fastcomb::kFloat32 ? affine_as<float>(e, a.scale, a.shift) : affine_as<bf16>(e, a.scale, a.shift);
}
static void moments(const fastcomb::Moments& m, int dtype, const fastcomb::ChannelMoments& to) {
  const Elementwise e{m.size, m.x, nullptr, nullptr, m.x_stride, kNoStride, kNoStride};
  dtype == fastcomb::kFloat32 ? moments_as<float>(e, to.pivot, to.sum, to.squares)
                              : moments_as<bf16>(e, to.pivot, to.sum, to.squares);
}

static void convert(const fastcomb::Convert& c) {
  for (int64_t i = 0; i < c.count; i += W) {
    const int n = (int)smaller(W, c.count - i);
    const F v = c.from_dtype == fastcomb::kFloat32 ? load_n((const float*)c.x + i, n) : load_n((const bf16*)c.x + i, n);
    if (c.to_dtype == fastcomb::kFloat32) store_n((float*)c.out + i, v, n);
    else store_n((bf16*)c.out + i, v, n);
  }
}

}  // namespace FASTCOMB_LEVEL
