// Values looked up by number, put somewhere by number, and put in order.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "elementwise.h"

namespace FASTCOMB_LEVEL {

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

// f(index, x, out) at the start of each innermost run, with places along three operands.
template <class Run>
FASTCOMB_INLINE void for_places(const int64_t* n, const int64_t* s, const int64_t* t, const int64_t* u,
                                const Run& run) {
  for (int64_t i0 = 0; i0 < n[0]; ++i0)
    for (int64_t i1 = 0; i1 < n[1]; ++i1)
      for (int64_t i2 = 0; i2 < n[2]; ++i2)
        for (int64_t i3 = 0; i3 < n[3]; ++i3)
          for (int64_t i4 = 0; i4 < n[4]; ++i4) {
            const auto at = [&](const int64_t* a) { return i0 * a[0] + i1 * a[1] + i2 * a[2] + i3 * a[3] + i4 * a[4]; };
            run(at(s), at(t), at(u));
          }
}

template <class T>
static void take_as(const fastcomb::Take& t) {
  const int64_t n = t.size[5], is = t.index_stride[5], xs = t.x_stride[5], os = t.out_stride[5];
  const auto number = [&](int64_t given) { return given < 0 && t.from_end ? given + t.entries : given; };
  const auto known = [&](int64_t entry) { return entry >= 0 && entry < t.entries; };
  for_places(t.size, t.index_stride, t.x_stride, t.out_stride, [&](int64_t index, int64_t from, int64_t to) {
    const T* x = (const T*)t.x + from;
    T* out = (T*)t.out + to;
    if (is) {
      for (int64_t i = 0; i < n; ++i) {
        const int64_t entry = number(t.indices[index + i * is]);
        assign(out + i * os, known(entry) ? widen(x[entry * t.x_entry + i * xs]) : __builtin_nanf(""));
      }
      return;
    }
    const int64_t entry = number(t.indices[index]);
    const bool there = known(entry);
    if (there) x += entry * t.x_entry;
    for (int64_t i = 0; i < n; i += W) {
      const int some = (int)smaller(W, n - i);
      put(out + i * os, os, there ? take(x + i * xs, xs, some) : set1(__builtin_nanf("")), some);
    }
  });
}
static void take_entries(const fastcomb::Take& t, int dtype) {
  dtype == fastcomb::kFloat32 ? take_as<float>(t) : take_as<bf16>(t);
}

template <class T>
static void scatter_as(const fastcomb::Scatter& s) {
  for_places(s.size, s.index_stride, s.x_stride, s.out_stride, [&](int64_t index, int64_t from, int64_t to) {
    for (int64_t i = 0; i < s.size[5]; ++i) {
      const int64_t entry = s.indices[index + i * s.index_stride[5]];
      if (entry < 0 || entry >= s.entries) continue;
      T* out = (T*)s.out + to + i * s.out_stride[5] + entry * s.out_entry;
      const float x = widen(((const T*)s.x)[from + i * s.x_stride[5]]);
      assign(out, s.add ? widen(*out) + x : x);
    }
  });
}
static void scatter(const fastcomb::Scatter& s, int dtype) {
  dtype == fastcomb::kFloat32 ? scatter_as<float>(s) : scatter_as<bf16>(s);
}

template <class T>
static void order_as(const fastcomb::Order& o) {
  const int64_t n = o.size[5], step = o.x_stride[5];
  std::vector<int64_t> order(n);
  T* values = (T*)o.values;
  int64_t* numbers = o.numbers;
  for_places(o.size, kNoStride, o.x_stride, kNoStride, [&](int64_t, int64_t from, int64_t) {
    const T* x = (const T*)o.x + from;
    const auto before = [&](int64_t i, int64_t j) {
      const float u = widen(x[i * step]), v = widen(x[j * step]);
      const bool no = u != u, none = v != v;
      if (no != none) return no == o.nan_first;
      if (no || u == v) return i < j;
      return o.descending ? u > v : u < v;
    };
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + o.kept, order.end(), before);
    for (int64_t k = 0; k < o.kept; ++k) {
      values[k] = x[order[k] * step];
      numbers[k] = order[k];
    }
    values += o.kept, numbers += o.kept;
  });
}
static void order(const fastcomb::Order& o, int dtype) {
  dtype == fastcomb::kFloat32 ? order_as<float>(o) : order_as<bf16>(o);
}

}  // namespace FASTCOMB_LEVEL
