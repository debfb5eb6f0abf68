// Losses and accuracy of a block of samples: one lane per sample, sums in float64.
#pragma once

#include "functions.h"
#include "kernels.h"

namespace FASTCOMB_LEVEL {

using fastcomb::Loss;
using fastcomb::LossSums;
typedef double Wide __attribute__((vector_size(W * 8)));

// W rows of classes turned so that lanes are rows: class c at columns + c * W. Rows are at `from`, classes `stride`
// apart; `beside` says that the n rows are neighbours. Lanes beyond n hold numbers of no meaning; up to W - 1 classes
// beyond the last are written.
FASTCOMB_INLINE void turn(const float* const from[W], int64_t stride, int64_t width, int n, bool beside,
                          float* columns) {
  if (stride != 1) {
    for (int64_t c = 0; c < width; ++c, columns += W)
      if (beside) store(columns, load_n(from[0] + c * stride, n));
      else
        for (int l = 0; l < W; ++l) columns[l] = from[l][c * stride];
    return;
  }
  for (int64_t c = 0; c < width; c += W) {
    const int some = (int)smaller(W, width - c);
    F block[W];
#pragma GCC unroll 16
    for (int l = 0; l < W; ++l) block[l] = some == W ? load(from[l] + c) : load_n(from[l] + c, some);
    transpose_lanes(block);
    for (int k = 0; k < W; ++k) store(columns + (c + k) * W, block[k]);
  }
}

// Rows [samples, positions] of a tensor with strides, W at a time.
struct RowWalk {
  const float* values;
  const int64_t* stride;  // of samples, positions and classes
  int64_t positions, width;
  int64_t sample = 0, position = 0;

  // The next n rows, turned. Lanes beyond n are the first of them again, or nothing.
  FASTCOMB_INLINE_MEMBER void next(int n, float* columns) {
    const bool beside = stride[1] == 1 && position + n <= positions;
    const float* from[W];
    for (int l = 0; l < W; ++l) {
      from[l] = l < n ? values + sample * stride[0] + position * stride[1] : from[0];
      if (l < n && ++position == positions) position = 0, ++sample;
    }
    turn(from, stride[2], width, n, beside, columns);
  }
};

// Losses of class numbers or probabilities, a row of classes for every position.
static void classes(const Loss& s, const LossSums& to) {
  typedef int64_t Labels __attribute__((vector_size(W * 8)));
  const bool soft = s.kind == fastcomb::kSoftCrossEntropy;
  float *scores = to.scratch, *shares = to.scratch + (s.width + W) * W;
  RowWalk outputs{s.outputs, s.stride, s.positions, s.width};
  RowWalk probabilities{(const float*)s.targets, s.target_stride, s.positions, s.width};
  const int64_t rows = s.samples * s.positions;
  const float even = s.smoothing / (float)s.width;
  Wide total = {};
  I correct = {};
  I lane = {};
  for (int l = 0; l < W; ++l) lane[l] = l;
  double of_sample = 0;  // of the sample that row i is of, so far
  int64_t sample = 0, position = 0;
  for (int64_t i = 0; i < rows; i += W) {
    const int n = (int)smaller(W, rows - i);
    outputs.next(n, scores);
    int64_t labels[W] = {};
    if (soft) probabilities.next(n, shares);
    else
      for (int l = 0; l < n; ++l) {
        const int64_t given = ((const int64_t*)s.targets)[i + l];
        labels[l] = given == s.ignored ? -1 : given;
      }
    const I label = __builtin_convertvector(load_as<Labels>(labels), I);
    F best = load(scores), chosen = best;
    I found = {};
    for (int64_t c = 1; c < s.width; ++c) {
      const F v = load(scores + c * W);
      const I better = (I)(v > best) | ((I)(v != v) & (I)(best == best));  // as argmax: a NaN wins
      best = select(better, v, best);
      found = better ? (I{} + (int32_t)c) : found;
      chosen = select(label == (int32_t)c, v, chosen);
    }
    F loss = -chosen;
    if (s.kind != fastcomb::kNll) {
      F sum = set1(0);
      for (int64_t c = 0; c < s.width; ++c) sum = sum + exponential(load(scores + c * W) - best);
      const F norm = logarithm(sum);
      loss = norm + (best - chosen);
      Wide mixed = {};
      if (soft) {
        for (int64_t c = 0; c < s.width; ++c) {
          const F share = set1(1 - s.smoothing) * load(shares + c * W) + set1(even);
          mixed += __builtin_convertvector(share * (norm + (best - load(scores + c * W))), Wide);
        }
        loss = __builtin_convertvector(mixed, F);
      } else if (s.smoothing != 0) {
        for (int64_t c = 0; c < s.width; ++c) mixed += __builtin_convertvector(best - load(scores + c * W), Wide);
        loss = set1(1 - s.smoothing) * loss +
               set1(s.smoothing) * (norm + __builtin_convertvector(mixed / (double)s.width, F));
      }
    }
    const I counted = (lane < n) & (label >= 0);
    loss = select(counted, loss, set1(0));
    const I right = (found == label) & counted;
    if (to.each) {
      const F value = to.each_correct ? select(right, set1(1), set1(0)) : loss;
      for (int l = 0; l < n; ++l) {
        of_sample += value[l];
        if (++position < s.positions) continue;
        to.each[sample++] = (float)(of_sample * s.factor);
        of_sample = 0, position = 0;
      }
    }
    correct -= right;
    total += __builtin_convertvector(loss, Wide);
  }
  for (int l = 0; l < W; ++l) *to.loss += total[l] * s.factor;
  if (!s.classes) return;
  for (int l = 0; l < W; ++l) *to.correct += correct[l] * s.factor;
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

// The loss of single entries [samples, width], by a function of output and target.
template <class Of>
FASTCOMB_INLINE void entries(const Loss& s, const LossSums& to, const Of& of) {
  I lane = {};
  for (int l = 0; l < W; ++l) lane[l] = l;
  for (int64_t i = 0; i < s.samples; ++i) {
    const float *x = s.outputs + i * s.width, *y = (const float*)s.targets + i * s.width;
    Wide sum = {};
    I right = {};
    for (int64_t c = 0; c < s.width; c += W) {
      const int n = (int)smaller(W, s.width - c);
      const F output = load_n(x + c, n), target = load_n(y + c, n);
      const I inside = lane < n;
      sum += __builtin_convertvector(select(inside, of(output, target), set1(0)), Wide);
      right -= ((I)(output > 0.0f) == (I)(target > 0.5f)) & inside;
    }
    double loss = 0, correct = 0;
    for (int l = 0; l < W; ++l) loss += sum[l], correct += right[l];
    loss /= (double)s.width, correct /= (double)s.width;
    *to.loss += loss;
    if (s.classes) *to.correct += correct;
    if (to.each) to.each[i] = (float)(to.each_correct ? correct : loss);
  }
}

static void loss(const Loss& s, const LossSums& to) {
  const F half = set1(0.5f), edge = set1(s.threshold);
  switch (s.kind) {
    case fastcomb::kMse: return squared(s, to);
    case fastcomb::kL1: return entries(s, to, [](F x, F y) { return absolute(x - y); });
    case fastcomb::kHuber:
      return entries(s, to, [=](F x, F y) {
        const F d = absolute(x - y);
        return select((I)(d < edge), half * d * d, edge * (d - half * edge));
      });
    case fastcomb::kSmoothL1:
      return entries(s, to, [=](F x, F y) {
        const F d = absolute(x - y);
        return select((I)(d < edge), half * d * d / edge, d - half * edge);
      });
    case fastcomb::kBceWithLogits:
      return entries(s, to, [](F x, F y) {
        const F log_of_sigmoid = minimum(x, set1(0)) - logarithm_of_one_plus(exponential(-absolute(x)));
        return (set1(1) - y) * x - log_of_sigmoid;
      });
    default: return classes(s, to);
  }
}

}  // namespace FASTCOMB_LEVEL
