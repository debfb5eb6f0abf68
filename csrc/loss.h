// Losses and accuracy of a block of samples: one lane per sample, sums in float64.
#pragma once

#include "functions.h"
#include "kernels.h"

namespace FASTCOMB_LEVEL {

using fastcomb::Loss;
typedef double Wide __attribute__((vector_size(W * 8)));

static void classes(const Loss& s) {
  Wide total = {};
  int64_t correct = 0;
  for (int64_t i = 0; i < s.samples; i += W) {
    const int n = (int)smaller(W, s.samples - i);
    const float* rows = s.outputs + i * s.width;
    U offset;
    I label;
    for (int l = 0; l < W; ++l) {
      offset[l] = (uint32_t)((l < n ? l : 0) * s.width);
      label[l] = (int32_t)s.labels[i + (l < n ? l : 0)];
    }
    F best = gather(rows, offset);
    I found = {};
    for (int64_t c = 1; c < s.width; ++c) {
      const F v = gather(rows + c, offset);
      const I better = (I)(v > best) | ((I)(v != v) & (I)(best == best));  // as argmax: a NaN wins
      best = select(better, v, best);
      found = better ? (I{} + (int32_t)c) : found;
    }
    const F chosen = gather(rows, offset + (U)label);
    F loss = -chosen;
    if (s.kind == fastcomb::kCrossEntropy) {
      F sum = set1(0);
      for (int64_t c = 0; c < s.width; ++c) sum = sum + exponential(gather(rows + c, offset) - best);
      loss = logarithm(sum) + (best - chosen);
    }
    const I right = found == label;
    if (n < W)
      for (int l = n; l < W; ++l) loss[l] = 0;
    for (int l = 0; l < n; ++l) correct -= right[l];
    total += __builtin_convertvector(loss, Wide);
  }
  for (int l = 0; l < W; ++l) *s.loss += total[l];
  if (s.classes) *s.correct += (double)correct;
}

static void squared(const Loss& s) {
  for (int64_t i = 0; i < s.samples; ++i) {
    const float *x = s.outputs + i * s.width, *y = s.values + i * s.width;
    double sum = 0;
    for (int64_t c = 0; c < s.width; ++c) {
      const float d = x[c] - y[c];
      sum += (double)(d * d);
    }
    *s.loss += sum / (double)s.width;
  }
}

static void loss(const Loss& s) { s.kind == fastcomb::kSquared ? squared(s) : classes(s); }

}  // namespace FASTCOMB_LEVEL
