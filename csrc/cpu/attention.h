// Attention: for each head two products in the tiles of matmul.h, with a softmax between them.
#pragma once

#include "product.h"
#include "reduce.h"

namespace FASTCOMB_LEVEL {

using fastcomb::Attention;
using fastcomb::kQueries;

// Scores of one query made into weights of the `keys` that it may see, and 0 for all others up to `all`.
template <class T>
static void attend(const Attention& a, const T* mask, int64_t keys, int64_t all, float* scores) {
  const int64_t step = a.mask_stride[3];
  const F nothing = set1(-__builtin_inff());
  F most = nothing;
  I odd = {};  // where a score is no number
  for (int64_t j = 0; j < keys; j += W) {
    const int n = (int)smaller(W, keys - j);
    F s = take(scores + j, 1, n) * a.scale;
    if (mask) {
      const F m = take(mask + j * step, step, n);
      s = a.boolean ? select((I)(m != 0.0f), s, nothing) : s + m;
    }
    if (n < W) s = select(lanes_before(n), s, nothing);
    put(scores + j, 1, s, n);
    most = maximum(most, s);
    odd |= (I)(s != s);
  }
  const float top = max_lanes(most);
  bool none = top == -__builtin_inff();  // and then a difference to it is no number
  for (int l = 0; l < W; ++l) none &= !odd[l];
  F total = set1(0);
  for (int64_t j = 0; j < keys && !none; j += W) {
    const int n = (int)smaller(W, keys - j);
    F e = exponential(take(scores + j, 1, n) - top);
    if (n < W) e = select(lanes_before(n), e, set1(0));
    put(scores + j, 1, e, n);
    total = total + e;
  }
  const float factor = 1.0f / sum_lanes(total);
  for (int64_t j = 0; j < all; j += W) {
    const int n = (int)smaller(W, all - j), seen = none ? 0 : (int)smaller(W, larger(0, keys - j));
    F weight = take(scores + j, 1, n) * factor;
    if (seen < n) weight = select(lanes_before(seen), weight, set1(0));
    put(scores + j, 1, weight, n);
  }
}

template <class T>
static void attention_as(const Attention& a, float* scratch) {
  const int64_t line = a.keys;
  float *scores = scratch, *queried = scores + kQueries * line, *panel = queried + kQueries * a.width;
  float* rest = panel + larger(a.keys, a.width) * 2 * W;
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t h = 0; h < a.heads; ++h)
      for (int64_t first = 0; first < a.queries; first += kQueries) {
        const auto at = [&](const int64_t* s) { return b * s[0] + h * s[1]; };
        const int64_t queries = smaller(kQueries, a.queries - first);
        const T* q = (const T*)a.q + at(a.q_stride) + first * a.q_stride[2];
        const T *k = (const T*)a.k + at(a.k_stride), *v = (const T*)a.v + at(a.v_stride);
        T* out = (T*)a.out + at(a.out_stride) + first * a.out_stride[2];
        for (int64_t i = 0; i < queries; ++i)
          for (int64_t c = 0; c < a.width; c += W) {
            const int n = (int)smaller(W, a.width - c);
            put(queried + i * a.width + c, 1, take(q + i * a.q_stride[2] + c, 1, n), n);
          }
        const int64_t keys = a.causal ? smaller(a.keys, first + queries) : a.keys;  // that any of them sees
        for (int64_t j = 0; j < keys; j += 2 * W) {
          const int some = (int)smaller(2 * W, keys - j);
          gather_panel(k + j * a.k_stride[2], a.width, 1, a.k_stride[2], some, panel);
          times_panel(queried, a.width, 1, queries, a.width, panel, some, scores + j, line, rest);
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
