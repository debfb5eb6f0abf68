// Reductions: norms over rows and groups, softmax, sums and others.
#pragma once

#include "elementwise.h"

namespace FASTCOMB_LEVEL {

using fastcomb::GroupNorm;
using fastcomb::LayerNorm;
using fastcomb::Reduce;
using fastcomb::Softmax;

FASTCOMB_INLINE I lanes_before(int n) {
  I lane = {};
  for (int l = 0; l < W; ++l) lane[l] = l;
  return lane < n;
}

template <class T>
FASTCOMB_INLINE float sum_row(const T* x, int64_t n) {
  F s = set1(0);
  for (int64_t i = 0; i < n; i += W) s = s + take(x + i, 1, (int)smaller(W, n - i));  // zeros beyond n
  return sum_lanes(s);
}
template <class T>
FASTCOMB_INLINE float squares_row(const T* x, int64_t n, float mean) {
  F s = set1(0);
  for (int64_t i = 0; i < n; i += W) {
    const int some = (int)smaller(W, n - i);
    F d = take(x + i, 1, some) - mean;
    if (some < W)
      for (int l = some; l < W; ++l) d[l] = 0;
    s = fma(d, d, s);
  }
  return sum_lanes(s);
}

template <class T>
static void layer_norm_as(const LayerNorm& r) {
  for (int64_t i = 0; i < r.count; ++i) {
    const T* x = (const T*)r.x + i * r.width;
    T* out = (T*)r.out + i * r.width;
    const float mean = r.centre ? sum_row(x, r.width) / r.width : 0;
    const float factor = 1.0f / sqrtf(squares_row(x, r.width, mean) / r.width + r.eps);
    for (int64_t c = 0; c < r.width; c += W) {
      const int n = (int)smaller(W, r.width - c);
      F v = (take(x + c, 1, n) - mean) * factor;
      if (r.scale) v = v * take(r.scale + c, 1, n);
      if (r.shift) v = v + take(r.shift + c, 1, n);
      put(out + c, 1, v, n);
    }
  }
}

// The sum of exp(x - max) over one row, and the max.
template <class T>
FASTCOMB_INLINE float exponentials(const T* x, int64_t n, float& top) {
  F m = set1(-__builtin_inff());
  for (int64_t i = 0; i < n; i += W) {
    const int some = (int)smaller(W, n - i);
    F v = take(x + i, 1, some);
    for (int l = some; l < W; ++l) v[l] = -__builtin_inff();
    m = maximum(m, v);
  }
  top = max_lanes(m);
  F sum = set1(0);
  for (int64_t i = 0; i < n; i += W) {
    const int some = (int)smaller(W, n - i);
    const F e = exponential(take(x + i, 1, some) - top);
    sum = sum + (some == W ? e : select(lanes_before(some), e, set1(0)));
  }
  return sum_lanes(sum);
}

template <class T>
static void softmax_as(const Softmax& r) {
  for (int64_t i = 0; i < r.count; ++i) {
    const T* x = (const T*)r.x + i * r.width;
    T* out = (T*)r.out + i * r.width;
    float top;
    const float s = exponentials(x, r.width, top), low = top + logf(s);
    for (int64_t c = 0; c < r.width; c += W) {
      const int n = (int)smaller(W, r.width - c);
      const F v = take(x + c, 1, n);
      put(out + c, 1, r.logarithm ? v - low : exponential(v - top) / s, n);
    }
  }
}

template <class T>
static void group_norm_as(const GroupNorm& g) {
  const int64_t own = g.channels / g.groups;
  for (int64_t n = 0; n < g.batch; ++n)
    for (int64_t group = 0; group < g.groups; ++group) {
      const T* in = (const T*)g.x + n * g.in_batch + group * own;
      T* out = (T*)g.out + n * g.out_batch + group * own;
      double sum = 0, squares = 0;
      for (int64_t y = 0; y < g.pixels_h; ++y)
        for (int64_t x = 0; x < g.pixels_w; ++x) sum += sum_row(in + y * g.in_row + x * g.in_pixel, own);
      const double count = (double)own * g.pixels_h * g.pixels_w;
      const float mean = (float)(sum / count);
      for (int64_t y = 0; y < g.pixels_h; ++y)
        for (int64_t x = 0; x < g.pixels_w; ++x) squares += squares_row(in + y * g.in_row + x * g.in_pixel, own, mean);
      const float factor = (float)(1 / sqrt(squares / count + g.eps));
      for (int64_t y = 0; y < g.pixels_h; ++y)
        for (int64_t x = 0; x < g.pixels_w; ++x)
          for (int64_t c = 0; c < own; c += W) {
            const int some = (int)smaller(W, own - c);
            F v = (take(in + y * g.in_row + x * g.in_pixel + c, 1, some) - mean) * factor;
            if (g.scale) v = v * take(g.scale + group * own + c, 1, some);
            if (g.shift) v = v + take(g.shift + group * own + c, 1, some);
            put(out + y * g.out_row + x * g.out_pixel + c, 1, v, some);
          }
    }
}

// f(offset of x) for each position over the reduced dimensions.
template <class Use>
FASTCOMB_INLINE void for_over(const Reduce& r, const Use& use) {
  const int64_t *n = r.over, *s = r.over_in;
  for (int64_t i0 = 0; i0 < n[0]; ++i0)
    for (int64_t i1 = 0; i1 < n[1]; ++i1)
      for (int64_t i2 = 0; i2 < n[2]; ++i2)
        for (int64_t i3 = 0; i3 < n[3]; ++i3)
          for (int64_t i4 = 0; i4 < n[4]; ++i4)
            for (int64_t i5 = 0; i5 < n[5]; ++i5)
              use(i0 * s[0] + i1 * s[1] + i2 * s[2] + i3 * s[3] + i4 * s[4] + i5 * s[5]);
}

// What a reduction begins with, takes in, and makes of two parts. Variances and logarithms of sums take in what
// is left after `aside`, the mean or the maximum of the same numbers.
template <int KIND>
FASTCOMB_INLINE F first_of() {
  using namespace fastcomb;
  return set1(KIND == kLargest    ? -__builtin_inff()
              : KIND == kSmallest ? __builtin_inff()
              : KIND == kProduct  ? 1.0f
                                  : 0.0f);
}
template <int KIND>
FASTCOMB_INLINE F taken_in(F v, F aside) {
  using namespace fastcomb;
  if (KIND == kAbsolutes) return absolute(v);
  if (KIND == kNorm) return v * v;
  if (KIND == kVariance || KIND == kDeviation) return (v - aside) * (v - aside);
  if (KIND == kLogSumExp) return exponential(v - aside);
  return v;
}
template <int KIND>
FASTCOMB_INLINE F joined(F acc, F v) {
  using namespace fastcomb;
  if (KIND == kLargest) return select((I)(v > acc) | (I)(v != v), v, acc);  // a NaN wins
  if (KIND == kSmallest) return select((I)(v < acc) | (I)(v != v), v, acc);
  if (KIND == kProduct) return acc * v;
  return acc + v;
}
template <int KIND>
FASTCOMB_INLINE F last_of(F acc, F aside, float factor) {
  using namespace fastcomb;
  if (KIND == kNorm) return root(acc);
  if (KIND == kDeviation) return root(acc * factor);
  if (KIND == kLogSumExp) return each_lane(acc, logf) + aside;
  return KIND == kSum || KIND == kVariance ? acc * factor : acc;
}
constexpr bool looks_twice(int kind) {
  return kind == fastcomb::kVariance || kind == fastcomb::kDeviation || kind == fastcomb::kLogSumExp;
}

// Lanes are places of the result.
template <class T, int KIND>
FASTCOMB_INLINE F reduced(const Reduce& r, const T* x, int64_t stride, int n, F aside) {
  F acc = first_of<KIND>();
  for_over(r, [&](int64_t at) { acc = joined<KIND>(acc, taken_in<KIND>(take(x + at, stride, n), aside)); });
  return acc;
}

// One place of the result, lanes along the innermost loop, whose entries are neighbours.
template <class T, int KIND>
FASTCOMB_INLINE float reduced_row(const Reduce& r, const int64_t* once, const T* x, F aside) {
  Reduce lines = r;
  memcpy(lines.over, once, sizeof lines.over);
  F acc = first_of<KIND>();
  for_over(lines, [&](int64_t at) {
    for (int64_t i = 0; i < r.over[5]; i += W) {
      const int n = (int)smaller(W, r.over[5] - i);
      const F v = joined<KIND>(acc, taken_in<KIND>(take(x + at + i, 1, n), aside));
      acc = n == W ? v : select(lanes_before(n), v, acc);
    }
  });
  F one = set1(acc[0]);
  for (int l = 1; l < W; ++l) one = joined<KIND>(one, set1(acc[l]));
  return one[0];
}

template <class T, int KIND>
static void reduce_op(const Reduce& r) {
  using namespace fastcomb;
  const Elementwise outer{r.outer, r.x, nullptr, r.out, r.outer_in, kNoStride, r.outer_out};
  const int64_t n = outer.size[5], xs = outer.x_stride[5], os = outer.out_stride[5];
  const int64_t once[kMaxDims] = {r.over[0], r.over[1], r.over[2], r.over[3], r.over[4], 1};
  float count = 1;
  for (const int64_t size : r.over) count *= (float)size;
  const bool rows = xs != 1 && r.over_in[5] == 1 && r.over[5] > 1;
  constexpr int before = KIND == kLogSumExp ? kLargest : kSum;  // what is set aside
  const auto aside_of = [&](F found) {
    if (KIND != kLogSumExp) return found / count;
    return select((I)(absolute(found) == __builtin_inff()), set1(0), found);
  };
  for_runs<T>(outer, [&](const T* x, const T*, T* out) {
    if (rows) {
      for (int64_t i = 0; i < n; ++i) {
        F aside = set1(0);
        if (looks_twice(KIND)) aside = aside_of(set1(reduced_row<T, before>(r, once, x + i * xs, aside)));
        const F found = set1(reduced_row<T, KIND>(r, once, x + i * xs, aside));
        put(out + i * os, 1, last_of<KIND>(found, aside, r.factor), 1);
      }
      return;
    }
    for (int64_t i = 0; i < n; i += W) {
      const int some = (int)smaller(W, n - i);
      F aside = set1(0);
      if (looks_twice(KIND)) aside = aside_of(reduced<T, before>(r, x + i * xs, xs, some, aside));
      const F found = reduced<T, KIND>(r, x + i * xs, xs, some, aside);
      put(out + i * os, os, last_of<KIND>(found, aside, r.factor), some);
    }
  });
}

template <class T>
static void reduce_as(const Reduce& r) {
  using namespace fastcomb;
  switch (r.kind) {
    case kSum: return reduce_op<T, kSum>(r);
    case kLargest: return reduce_op<T, kLargest>(r);
    case kSmallest: return reduce_op<T, kSmallest>(r);
    case kProduct: return reduce_op<T, kProduct>(r);
    case kAbsolutes: return reduce_op<T, kAbsolutes>(r);
    case kNorm: return reduce_op<T, kNorm>(r);
    case kVariance: return reduce_op<T, kVariance>(r);
    case kDeviation: return reduce_op<T, kDeviation>(r);
    case kLogSumExp: return reduce_op<T, kLogSumExp>(r);
  }
}

#define FASTCOMB_BOTH(name, Struct)                                         \
  static void name(const Struct& s, int dtype) {                            \
    dtype == fastcomb::kFloat32 ? name##_as<float>(s) : name##_as<bf16>(s); \
  }
FASTCOMB_BOTH(layer_norm, LayerNorm)
FASTCOMB_BOTH(softmax, Softmax)
FASTCOMB_BOTH(group_norm, GroupNorm)
FASTCOMB_BOTH(reduce, Reduce)
#undef FASTCOMB_BOTH
}  // namespace FASTCOMB_LEVEL
