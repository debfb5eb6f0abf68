// Whether the mean of a combination's per-sample values is below a level, from as few samples as it takes:
// samples in a random weighted order without replacement, and bets against both answers.
// fastcomb/statistics/sequential_decision.py states the rule and where it is from; this is the same, in compiled code.
#pragma once

#include <stdint.h>

#include <utility>
#include <vector>

namespace fastcomb {

// What is asked, the same for all combinations. Values are of what is measured times `sign`.
struct Question {
  int64_t samples;
  const double* low;    // [samples] each sample's value is taken to be within low ...
  const double* width;  // [samples] ... and low + width
  double low_sum;       // of all samples
  double below, above;  // sums of (value - low) that would deny "below", and "not below"
  double capital;       // at which a bet is won
  double sign;
  bool correct;  // values are 1 for a right answer and 0 for a wrong one, not losses
  uint64_t seed;
  double expected, variance;  // of a sample's place between its bounds, over samples weighted by width
};

enum Answer : int32_t { kUndecided = -1, kNotBelow = 0, kBelow = 1 };

// One combination's samples in their order, and the bets.
class Decision {
 public:
  void start(const Question& question, uint64_t index);
  // The next up to `count` samples; fewer at the end, none after it.
  const int32_t* next(int64_t count, int64_t* got);
  // Takes their values; once there is an answer no more are wanted. With all taken, the mean is the answer.
  Answer take(const int32_t* samples, const float* values, int64_t count);
  int64_t taken() const { return taken_; }
  double mean() const;  // of all samples once they were taken, else an estimate; without the sign

 private:
  const Question* q_ = nullptr;
  std::vector<std::pair<double, int32_t>> keys_;
  std::vector<int32_t> given_;
  double below_[2], above_[2];  // capital of two bets against each answer: a bold one, and a careful one
  int64_t sorted_ = 0, taken_ = 0;
  double sum_ = 0, within_ = 0, left_ = 0;  // values; values clipped, less low; width of samples not taken
  double drawn_width_ = 0, shares_ = 0, squares_ = 0;
  Answer answer_ = kUndecided;
};

}  // namespace fastcomb
