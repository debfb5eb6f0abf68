// How the coefficients of one step towards a network are drawn.
#pragma once

#include <stdint.h>

#include "enums.h"
#include "philox.h"

namespace fastcomb {

struct Law {
  int kind;            // of LawKind
  int bits;            // 16 or 32
  bool ends;           // whether coefficients of exactly 0 or 1 occur, or there are several steps
  float low, range;    // kUniform: fma(u, range, low)
  uint32_t threshold;  // kBernoulli: 1 below this draw
  const float* table;  // kTable: coefficient of every draw, [65536] or [8388608]
};

}  // namespace fastcomb
