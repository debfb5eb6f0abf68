// The table of one instruction level; included by exactly one source file per level.
#pragma once

#include "matmul.h"
#include "elementwise.h"
#include "generate.h"
#include "loss.h"
#include "reduce.h"
#include "pooling.h"

#define FASTCOMB_TABLE(variable, name)                                                                         \
  const fastcomb::Kernels fastcomb::variable = {                                                               \
      name,                    FASTCOMB_LEVEL::W,         FASTCOMB_LEVEL::kPairs,   FASTCOMB_LEVEL::coefficients, \
      FASTCOMB_LEVEL::mix,     FASTCOMB_LEVEL::pack, \
      FASTCOMB_LEVEL::generate, FASTCOMB_LEVEL::contract, FASTCOMB_LEVEL::unary,    FASTCOMB_LEVEL::binary,    \
      FASTCOMB_LEVEL::affine,  FASTCOMB_LEVEL::convert,   FASTCOMB_LEVEL::pool,     FASTCOMB_LEVEL::depthwise, \
      FASTCOMB_LEVEL::layer_norm, FASTCOMB_LEVEL::softmax, FASTCOMB_LEVEL::group_norm, FASTCOMB_LEVEL::reduce, \
      FASTCOMB_LEVEL::attention, FASTCOMB_LEVEL::moments, FASTCOMB_LEVEL::loss,                                \
  };
