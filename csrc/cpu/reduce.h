// Reductions: norms over rows and groups, softmax, sums, attention.
#pragma once

#include "elementwise.h"

namespace FASTCOMB_LEVEL {

using fastcomb::Attention;
using fastcomb::GroupNorm;
using fastcomb::LayerNorm;
using fastcomb::Reduce;
using fastcomb::Softmax;

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
    const float mean = sum_row(x, r.width) / r.width;
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

// exp(x - max) of one row into out, returning the sum; max too.
template <class T>
FASTCOMB_INLINE float exponentials(const T* x, int64_t n, float* out, float& top) {
  F m = set1(-__builtin_inff());
  for (int64_t i = 0; i < n; i += W) {
    const int some = (int)smaller(W, n - i);
    F v = take(x + i, 1, some);
    for (int l = some; l < W; ++l) v[l] = -__builtin_inff();
    m = maximum(m, v);
  }
  top = max_lanes(m);
  float s = 0;
  for (int64_t i = 0; i < n; i += W) {
    const int some = (int)smaller(W, n - i);
    const F e = exponential(take(x + i, 1, some) - top);
    if (out) put(out + i, 1, e, some);
    for (int l = 0; l < some; ++l) s += e[l];
  }
  return s;
}

template <class T>
static void softmax_as(const Softmax& r) {
  for (int64_t i = 0; i < r.count; ++i) {
    const T* x = (const T*)r.x + i * r.width;
    T* out = (T*)r.out + i * r.width;
    float top;
    const float s = exponentials(x, r.width, nullptr, top), low = top + logf(s);
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

template <class T>
static void reduce_as(const Reduce& r) {
  const Elementwise outer{r.outer, r.x, nullptr, r.out, r.outer_in, kNoStride, r.outer_out};
  const int64_t n = outer.size[5], xs = outer.x_stride[5], os = outer.out_stride[5];
  for_runs<T>(outer, [&](const T* x, const T*, T* out) {
    for (int64_t i = 0; i < n; i += W) {
      const int some = (int)smaller(W, n - i);
      F acc = set1(r.maximum ? -__builtin_inff() : 0);
      for_over(r, [&](int64_t at) {
        const F v = take(x + i * xs + at, xs, some);
        if (r.maximum) acc = select((I)(v > acc) | (I)(v != v), v, acc);
        else acc = acc + v;
      });
      put(out + i * os, os, acc * r.factor, some);
    }
  });
}

template <class T>
static void attention_as(const Attention& a, float* scores) {
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t h = 0; h < a.heads; ++h)
      for (int64_t i = 0; i < a.queries; ++i) {
        const T* q = (const T*)a.q + b * a.q_stride[0] + h * a.q_stride[1] + i * a.q_stride[2];
        const int64_t keys = a.causal ? smaller(a.keys, i + 1) : a.keys;
        for (int64_t j = 0; j < keys; ++j) {
          const T* k = (const T*)a.k + b * a.k_stride[0] + h * a.k_stride[1] + j * a.k_stride[2];
          F s = set1(0);
          for (int64_t c = 0; c < a.width; c += W) {
            const int n = (int)smaller(W, a.width - c);
            s = fma(take(q + c, 1, n), take(k + c, 1, n), s);
          }
          scores[j] = sum_lanes(s) * a.scale;
        }
        float top;
        const float sum = exponentials(scores, keys, scores, top);
        T* out = (T*)a.out + b * a.out_stride[0] + h * a.out_stride[1] + i * a.out_stride[2];
        for (int64_t c = 0; c < a.value_width; c += W) {
          const int n = (int)smaller(W, a.value_width - c);
          F v = set1(0);
          for (int64_t j = 0; j < keys; ++j) {
            const T* from = (const T*)a.v + b * a.v_stride[0] + h * a.v_stride[1] + j * a.v_stride[2];
            v = fma(take(from + c, 1, n), set1(scores[j]), v);
          }
          put(out + c, 1, v / sum, n);
        }
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
static void attention(const Attention& a, int dtype, float* scratch) {
  dtype == fastcomb::kFloat32 ? attention_as<float>(a, scratch) : attention_as<bf16>(a, scratch);
}

}  // namespace FASTCOMB_LEVEL
