// The table of one instruction level; included by exactly one source file for each level.
#pragma once

#include "assignment.h"
#include "attention.h"
#include "elementwise.h"
#include "generate.h"
#include "layout.h"
#include "lookup.h"
#include "loss.h"
#include "matmul.h"
#include "pooling.h"
#include "product.h"
#include "reduce.h"

namespace FASTCOMB_LEVEL {

static constexpr fastcomb::Kernels table(const char* name) {
  fastcomb::Kernels k{};
  k.name = name;
  k.width = W;
  k.pairs = kPairs;
  k.coefficients = coefficients;
  k.mix = mix;
  k.pack = pack;
  k.generate = generate;
  k.matmul = matmul;
  k.unary = unary;
  k.binary = binary;
  k.integers = integers;
  k.choose = choose;
  k.affine = affine;
  k.convert = convert;
  k.pool = pool;
  k.depthwise = depthwise;
  k.layer_norm = layer_norm;
  k.softmax = softmax;
  k.group_norm = group_norm;
  k.reduce = reduce;
  k.attention = attention;
  k.product = product;
  k.arrange = arrange;
  k.cumsum = cumsum;
  k.resample = resample;
  k.moments = moments;
  k.loss = loss;
  k.border = border;
  k.zero = zero;
  k.embedding = embedding;
  k.take = take_entries;
  k.scatter = scatter;
  k.order = order;
  k.fold_batch_norm = fold_batch_norm;
  k.transpose = transpose;
  k.match = match;
  return k;
}

}  // namespace FASTCOMB_LEVEL

#define FASTCOMB_TABLE(variable, name) const fastcomb::Kernels fastcomb::variable = FASTCOMB_LEVEL::table(name);
