// Attention: for each head two products in the tiles of matmul.h, with a softmax between them.
#pragma once

#include "product.h"
#include "reduce.h"

namespace FASTCOMB_LEVEL {

using fastcomb::Attention;
using fastcomb::kQueries;

FASTCOMB_INLINE bool any_nan(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (x[i] != x[i]) return true;
  return false;
}

// Scores of one query made into weights of the `keys` that it may see, and 0 for all others up to `all`.
template <class T>
static void attend(const Attention& a, const T* mask, int64_t keys, int64_t all, float* scores) {
  const int64_t step = a.mask_stride[3];
  for (int64_t j = 0; j < keys; j += W) {
    const int n = (int)smaller(W, keys - j);
    F s = take(scores + j, 1, n) * a.scale;
    if (mask) {
      const F m = take(mask + j * step, step, n);
      s = a.boolean ? select((I)(m != 0.0f), s, set1(-__builtin_inff())) : s + m;
    }
    put(scores + j, 1, s, n);
  }
  float top;
  const float sum = exponentials(scores, keys, nullptr, top);
  const bool none = top == -__builtin_inff() && !any_nan(scores, keys);
  for (int64_t j = 0; j < all; j += W) {
    const int n = (int)smaller(W, all - j), seen = (int)smaller(W, larger(0, keys - j));
    F weight = set1(0);
    if (seen && !none) weight = select(lanes_before(seen), exponential(take(scores + j, 1, seen) - top) / sum, weight);
    put(scores + j, 1, weight, n);
  }
}

template <class T>
static void attention_as(const Attention& a, float* scratch) {
  const int64_t line = a.keys;
  float *scores = scratch, *panel = scores + kQueries * line, *rest = panel + larger(a.keys, a.width) * 2 * W;
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t h = 0; h < a.heads; ++h)
      for (int64_t first = 0; first < a.queries; first += kQueries) {
        const auto at = [&](const int64_t* s) { return b * s[0] + h * s[1]; };
        const int64_t queries = smaller(kQueries, a.queries - first);
        const T* q = (const T*)a.q + at(a.q_stride) + first * a.q_stride[2];
        const T *k = (const T*)a.k + at(a.k_stride), *v = (const T*)a.v + at(a.v_stride);
        T* out = (T*)a.out + at(a.out_stride) + first * a.out_stride[2];
        const int64_t keys = a.causal ? smaller(a.keys, first + queries) : a.keys;  // that any of them sees
        for (int64_t j = 0; j < keys; j += 2 * W) {
          const int some = (int)smaller(2 * W, keys - j);
          gather_panel(k + j * a.k_stride[2], a.width, 1, a.k_stride[2], some, panel);
          times_panel(q, a.q_stride[2], 1, queries, a.width, panel, some, scores + j, line, rest);
        }
        for (int64_t i = 0; i < queries; ++i) {
          const T* mask = (const T*)a.mask;
          if (mask) mask += at(a.mask_stride) + (first + i) * a.mask_stride[2];
          attend(a, mask, a.causal ? smaller(keys, first + i + 1) : keys, keys, scores + i * line);
        }
        for (int64_t c = 0; c < a.value_width; c += 2 * W) {
          const int some = (int)smaller(2 * W, a.value_width - c);
          gather_panel(v + c, keys, a.v_stride[2], 1, some, panel);
          times_panel(scores, line, 1, queries, keys, panel, some, out + c, a.out_stride[2], rest);
        }
      }
}

static void attention(const Attention& a, int dtype, float* scratch) {
  dtype == fastcomb::kFloat32 ? attention_as<float>(a, scratch) : attention_as<bf16>(a, scratch);
}

}  // namespace FASTCOMB_LEVEL
