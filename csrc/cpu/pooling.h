// Pooling, depthwise convolution and images in other sizes, channels last: lanes run along the channels.
#pragma once

#include "elementwise.h"

namespace FASTCOMB_LEVEL {

using fastcomb::Depthwise;
using fastcomb::Pool;
using fastcomb::Resample;

template <class T>
static void pool_as(const Pool& p) {
  for (int64_t n = 0; n < p.batch; ++n)
    for (int64_t oy = 0; oy < p.out_h; ++oy)
      for (int64_t ox = 0; ox < p.out_w; ++ox) {
        int64_t y0, y1, x0, x1, dy = 1, dx = 1, count;
        if (p.adaptive) {
          y0 = oy * p.in_h / p.out_h, y1 = ((oy + 1) * p.in_h + p.out_h - 1) / p.out_h;
          x0 = ox * p.in_w / p.out_w, x1 = ((ox + 1) * p.in_w + p.out_w - 1) / p.out_w;
          count = (y1 - y0) * (x1 - x0);
        } else {
          y0 = oy * p.stride_h - p.pad_h, x0 = ox * p.stride_w - p.pad_w;
          dy = p.dilation_h, dx = p.dilation_w;
          y1 = y0 + (p.kernel_h - 1) * dy + 1, x1 = x0 + (p.kernel_w - 1) * dx + 1;
          if (!p.maximum) {  // windows that reach beyond the padding count what is inside it
            y1 = smaller(y1, p.in_h + p.pad_h), x1 = smaller(x1, p.in_w + p.pad_w);
          }
          count = (y1 - y0) * (x1 - x0);
          while (y0 < 0) y0 += dy;
          while (x0 < 0) x0 += dx;
          y1 = smaller(y1, p.in_h), x1 = smaller(x1, p.in_w);
          if (!p.count_padding) count = larger(y1 - y0, 0) * larger(x1 - x0, 0);
          if (p.divisor) count = p.divisor;
        }
        const T* in = (const T*)p.x + n * p.in_batch;
        T* out = (T*)p.out + n * p.out_batch + oy * p.out_row + ox * p.out_pixel;
        for (int64_t c = 0; c < p.channels; c += W) {
          const int some = (int)smaller(W, p.channels - c);
          F acc = set1(p.maximum ? -__builtin_inff() : 0);
          for (int64_t y = y0; y < y1; y += dy)
            for (int64_t x = x0; x < x1; x += dx) {
              const F v = take(in + y * p.in_row + x * p.in_pixel + c, 1, some);
              if (p.maximum) acc = select((I)(v > acc) | (I)(v != v), v, acc);  // a NaN wins
              else acc = acc + v;
            }
          put(out + c, 1, p.maximum ? acc : acc / (float)count, some);
        }
      }
}

template <class T>
static void depthwise_as(const Depthwise& d) {
  for (int64_t n = 0; n < d.batch; ++n)
    for (int64_t oy = 0; oy < d.out_h; ++oy)
      for (int64_t ox = 0; ox < d.out_w; ++ox) {
        const T* in = (const T*)d.x + n * d.in_batch + oy * d.stride_h * d.in_row + ox * d.stride_w * d.in_pixel;
        T* out = (T*)d.out + n * d.out_batch + oy * d.out_row + ox * d.out_pixel;
        for (int64_t c = 0; c < d.channels; c += W) {
          const int some = (int)smaller(W, d.channels - c);
          F acc = set1(0);
          for (int64_t y = 0; y < d.kernel_h; ++y)
            for (int64_t x = 0; x < d.kernel_w; ++x)
              acc = fma(take(in + y * d.dilation_h * d.in_row + x * d.dilation_w * d.in_pixel + c, 1, some),
                        take(d.weights + (y * d.kernel_w + x) * d.channels + c, 1, some), acc);
          if (d.scale) acc = acc * take(d.scale + c, 1, some);
          if (d.shift) acc = acc + take(d.shift + c, 1, some);
          if (d.relu) acc = maximum(set1(0), acc);
          put(out + c, 1, acc, some);
        }
      }
}

template <class T>
static void resample_as(const Resample& r) {
  for (int64_t n = 0; n < r.batch; ++n)
    for (int64_t oy = 0; oy < r.out_h; ++oy)
      for (int64_t ox = 0; ox < r.out_w; ++ox) {
        const T* in = (const T*)r.x + n * r.in_batch;
        T* out = (T*)r.out + n * r.out_batch + oy * r.out_row + ox * r.out_pixel;
        for (int64_t c = 0; c < r.channels; c += W) {
          const int some = (int)smaller(W, r.channels - c);
          F acc = set1(0);
          for (int64_t i = 0; i < r.taps_h; ++i)
            for (int64_t j = 0; j < r.taps_w; ++j) {
              const int64_t y = r.rows[oy * r.taps_h + i], x = r.pixels[ox * r.taps_w + j];
              const float weight = r.row_weights[oy * r.taps_h + i] * r.pixel_weights[ox * r.taps_w + j];
              if (weight == 0) continue;
              if (y < 0 || y >= r.in_h || x < 0 || x >= r.in_w) acc = set1(__builtin_nanf(""));
              else acc = fma(take(in + y * r.in_row + x * r.in_pixel + c, 1, some), set1(weight), acc);
            }
          put(out + c, 1, acc, some);
        }
      }
}

static void pool(const Pool& p, int dtype) { dtype == fastcomb::kFloat32 ? pool_as<float>(p) : pool_as<bf16>(p); }
static void depthwise(const Depthwise& d, int dtype) {
  dtype == fastcomb::kFloat32 ? depthwise_as<float>(d) : depthwise_as<bf16>(d);
}
static void resample(const Resample& r, int dtype) {
  dtype == fastcomb::kFloat32 ? resample_as<float>(r) : resample_as<bf16>(r);
}

}  // namespace FASTCOMB_LEVEL
