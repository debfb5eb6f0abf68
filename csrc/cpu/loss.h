// Losses and accuracy of a block of samples: one lane per sample, sums in float64.
#pragma once

#include "functions.h"
#include "kernels.h"

namespace FASTCOMB_LEVEL {

using fastcomb::Loss;
using fastcomb::LossSums;
typedef double Wide __attribute__((vector_size(W * 8)));

// W samples transposed so that lanes are samples: class c at columns + c * W. Lanes beyond n repeat the first
// sample; up to W - 1 classes beyond the last are written.
FASTCOMB_INLINE void transpose_lanes(const float* rows, int64_t width, int n, float* columns) {
  for (int64_t c = 0; c < width; c += W) {
    const int some = (int)smaller(W, width - c);
    F block[W];
#pragma GCC unroll 16
    for (int l = 0; l < W; ++l) {
      const float* from = rows + (l < n ? l : 0) * width + c;
      block[l] = some == W ? load(from) : load_n(from, some);
    }
    transpose_lanes(block);
    for (int k = 0; k < W; ++k) store(columns + (c + k) * W, block[k]);
  }
}

static void classes(const Loss& s, const LossSums& to) {
  typedef int64_t Labels __attribute__((vector_size(W * 8)));
  Wide total = {};
  I correct = {};
  I lane = {};
  for (int l = 0; l < W; ++l) lane[l] = l;
  for (int64_t i = 0; i < s.samples; i += W) {
    const int n = (int)smaller(W, s.samples - i);
    transpose_lanes(s.outputs + i * s.width, s.width, n, to.scratch);
    int64_t labels[W] = {};
    memcpy(labels, (const int64_t*)s.targets + i, n * sizeof(int64_t));
    const I label = __builtin_convertvector(load_as<Labels>(labels), I);
    F best = load(to.scratch), chosen = best;
    I found = {};
    for (int64_t c = 1; c < s.width; ++c) {
      const F v = load(to.scratch + c * W);
      const I better = (I)(v > best) | ((I)(v != v) & (I)(best == best));  // as argmax: a NaN wins
      best = select(better, v, best);
      found = better ? (I{} + (int32_t)c) : found;
      chosen = select(label == (int32_t)c, v, chosen);
    }
    F loss = -chosen;
    if (s.kind == fastcomb::kCrossEntropy) {
      F sum = set1(0);
      for (int64_t c = 0; c < s.width; ++c) sum = sum + exponential(load(to.scratch + c * W) - best);
      loss = logarithm(sum) + (best - chosen);
    }
    if (to.each) store_n(to.each + i, to.each_correct ? select(found == label, set1(1), set1(0)) : loss, n);
    const I inside = lane < n;
    correct -= (found == label) & inside;
    total += __builtin_convertvector(select(inside, loss, set1(0)), Wide);
  }
  for (int l = 0; l < W; ++l) *to.loss += total[l];
  if (!s.classes) return;
  for (int l = 0; l < W; ++l) *to.correct += correct[l];
}

static void squared(const Loss& s, const LossSums& to) {
  for (int64_t i = 0; i < s.samples; ++i) {
    const float *x = s.outputs + i * s.width, *y = (const float*)s.targets + i * s.width;
    double sum = 0;
    for (int64_t c = 0; c < s.width; ++c) {
      const float d = x[c] - y[c];
      sum += (double)(d * d);
    }
    *to.loss += sum / (double)s.width;
    if (to.each) to.each[i] = (float)(sum / (double)s.width);
  }
}

static void loss(const Loss& s, const LossSums& to) { s.kind == fastcomb::kMse ? squared(s, to) : classes(s, to); }

}  // namespace FASTCOMB_LEVEL
