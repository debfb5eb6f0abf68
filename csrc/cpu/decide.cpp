#include "decide.h"

#include <math.h>

#include <algorithm>

#include "../philox.h"

namespace fastcomb {

namespace {
constexpr uint32_t kOrderUnit = 0xFFFFFFFEu;  // of the stream: no parameter's
constexpr double kRounding = 1e-9;            // relative: what sums may be off by, generously

constexpr double kBold = 0.9, kMost = 0.95;  // of the most that may be bet
constexpr double kPrior = 10;                // samples that what was expected counts as
constexpr double kLeastVariance = 1e-3;

// Multiplies both capitals for one sample: `edge` is the expected gain, `gain` the real one, at worst -`worst`.
void bet(double capital[2], double edge, double variance, double gain, double worst) {
  const double best = edge > 0 ? edge / (variance + edge * edge) * worst : 0;  // of most growth, about
  capital[0] *= 1 + kBold * gain / worst;
  capital[1] *= 1 + std::min(best, kMost) * gain / worst;
}
}  // namespace

void Decision::start(const Question& question, uint64_t index) {
  q_ = &question;
  const int64_t n = q_->samples;
  keys_.resize(n);
  left_ = 0;
  for (int64_t block = 0; 4 * block < n; ++block) {
    const Words drawn = philox4x32_10({{(uint32_t)block, kOrderUnit, (uint32_t)index, (uint32_t)(index >> 32)}},
                                      (uint32_t)q_->seed, (uint32_t)(q_->seed >> 32));
    for (int64_t s = 4 * block; s < std::min(4 * block + 4, n); ++s) {
      const double u = ((double)drawn.w[s - 4 * block] + 0.5) * 0x1p-32;
      keys_[s] = {-log(u) / q_->width[s], (int32_t)s};
    }
  }
  for (int64_t s = 0; s < n; ++s) left_ += q_->width[s];
  below_[0] = below_[1] = above_[0] = above_[1] = 1;
  sorted_ = taken_ = 0;
  sum_ = within_ = drawn_width_ = shares_ = squares_ = 0;
  answer_ = kUndecided;
}

const int32_t* Decision::next(int64_t count, int64_t* got) {
  const int64_t n = q_->samples, end = std::min(taken_ + count, n);
  if (end > sorted_) {  // twice as many each time: most combinations want few
    const int64_t to = std::min(std::max(end, 2 * sorted_), n);
    if (to < n) std::nth_element(keys_.begin() + sorted_, keys_.begin() + to, keys_.end());
    std::sort(keys_.begin() + sorted_, keys_.begin() + to);
    sorted_ = to;
  }
  given_.clear();
  for (int64_t i = taken_; i < end; ++i) given_.push_back(keys_[i].second);
  *got = end - taken_;
  return given_.data();
}

Answer Decision::take(const int32_t* samples, const float* values, int64_t count) {
  const Question& q = *q_;
  for (int64_t i = 0; i < count; ++i, ++taken_) {
    const double value = q.sign * (double)values[i], low = q.low[samples[i]], width = q.width[samples[i]];
    const double inside = value - low;
    const double share = inside > 0 ? (inside < width ? inside / width : 1) : (inside <= 0 ? 0 : 1);  // NaN: 1
    sum_ += value;
    if (answer_ == kUndecided) {
      const double slack = kRounding * (fabs(q.below) + fabs(q.above) + left_);
      if (q.below - within_ > left_ + slack) answer_ = kBelow;
      if (q.above - within_ < -slack) answer_ = kNotBelow;
      const double seen = kPrior + (double)taken_;
      const double mean = (kPrior * q.expected + shares_) / seen;
      const double variance = std::max((kPrior * q.variance + squares_) / seen, kLeastVariance);
      const double at_least = (q.below - within_) / left_;  // mean share of those left, if "below" is wrong
      if (at_least > 0 && at_least < 1) bet(below_, at_least - mean, variance, at_least - share, 1 - at_least);
      const double at_most = (q.above - within_) / left_;  // the same, if "not below" is wrong
      if (at_most > 0 && at_most < 1) bet(above_, mean - at_most, variance, share - at_most, at_most);
      if (below_[0] + below_[1] >= 2 * q.capital) answer_ = kBelow;
      else if (above_[0] + above_[1] >= 2 * q.capital) answer_ = kNotBelow;
    }
    shares_ += share;
    squares_ += (share - q.expected) * (share - q.expected);
    within_ += share * width;
    left_ -= width;
    drawn_width_ += width;
  }
  return answer_;
}

double Decision::mean() const {
  const double n = (double)q_->samples;
  if (taken_ == q_->samples) return q_->sign * sum_ / n;
  const double rest = drawn_width_ > 0 ? within_ / drawn_width_ * left_ : 0;
  return q_->sign * (q_->low_sum + within_ + rest) / n;
}

}  // namespace fastcomb
