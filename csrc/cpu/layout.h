// Values laid out or looked up, and constants worked out once for a combination.
#pragma once

#include "elementwise.h"

namespace FASTCOMB_LEVEL {

static void border(const fastcomb::Border& b, int dtype) {
  const int64_t pixel = b.channels * fastcomb::item_size(dtype);
  const int64_t line = (b.width + 2 * b.left) * pixel, edge = b.left * pixel;
  char* p = (char*)b.out;
  for (int64_t n = 0; n < b.batch; ++n) {
    memset(p, 0, b.top * line);
    p += b.top * line;
    for (int64_t y = 0; y < b.height; ++y, p += line) {
      memset(p, 0, edge);
      memset(p + line - edge, 0, edge);
    }
    memset(p, 0, b.top * line);
    p += b.top * line;
  }
}

static void zero(const fastcomb::Zero& z, int dtype) { memset(z.out, 0, z.count * fastcomb::item_size(dtype)); }

static void embedding(const fastcomb::Embedding& e, int dtype) {
  const int64_t bytes = e.width * fastcomb::item_size(dtype);
  const int64_t *n = e.size, *s = e.index_stride;
  char* to = (char*)e.out;
  for (int64_t i0 = 0; i0 < n[0]; ++i0)
    for (int64_t i1 = 0; i1 < n[1]; ++i1)
      for (int64_t i2 = 0; i2 < n[2]; ++i2)
        for (int64_t i3 = 0; i3 < n[3]; ++i3)
          for (int64_t i4 = 0; i4 < n[4]; ++i4)
            for (int64_t i5 = 0; i5 < n[5]; ++i5, to += bytes) {
              const int64_t number = e.indices[i0 * s[0] + i1 * s[1] + i2 * s[2] + i3 * s[3] + i4 * s[4] + i5 * s[5]];
              if (number >= 0 && number < e.entries) memcpy(to, (const char*)e.table + number * bytes, bytes);
              else memset(to, 0xff, bytes);
            }
}

template <class T>
static void take_as(const fastcomb::Take& t) {
  const Elementwise lines{t.size, t.x, nullptr, t.out, t.x_stride, kNoStride, t.out_stride};
  const int64_t n = t.size[5], xs = t.x_stride[5], os = t.out_stride[5];
  for (int64_t k = 0; k < t.batch * t.count; ++k) {
    const int64_t b = k / t.count, j = k % t.count, given = t.indices[b * t.index_batch + j];
    const int64_t number = given < 0 ? given + t.entries : given;
    const bool known = number >= 0 && number < t.entries;
    for_runs<T>(lines, [&](const T* x, const T*, T* out) {
      x += b * t.x_batch + (known ? number * t.x_entry : 0), out += b * t.out_batch + j * t.out_entry;
      for (int64_t i = 0; i < n; i += W) {
        const int some = (int)smaller(W, n - i);
        put(out + i * os, os, known ? take(x + i * xs, xs, some) : set1(__builtin_nanf("")), some);
      }
    });
  }
}
static void take_entries(const fastcomb::Take& t, int dtype) {
  dtype == fastcomb::kFloat32 ? take_as<float>(t) : take_as<bf16>(t);
}

static void fold_batch_norm(const fastcomb::FoldBatchNorm& f) {
  for (int64_t c = 0; c < f.channels; ++c) {
    const double factor = (f.gamma ? f.gamma[c] : 1.0) / sqrt((double)f.variance[c] + f.eps);
    f.scale[c] = (float)factor;
    f.shift[c] = (float)((f.beta ? f.beta[c] : 0.0) + ((f.bias ? f.bias[c] : 0.0) - f.mean[c]) * factor);
  }
}

static void transpose(const fastcomb::Transpose& t) {
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.columns; ++c) t.out[c * t.rows + r] = t.x[r * t.columns + c];
}

}  // namespace FASTCOMB_LEVEL
