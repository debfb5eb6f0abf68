// Instructions as the kernels' structs: the one place that knows how their numbers lie.
//
// `at` gives the address of an operand, or null. A reader of numbers refuses to go beyond the last.
#pragma once

#include <stdexcept>
#include <string>

#include "engine.h"

namespace fastcomb {

class Reader {
 public:
  explicit Reader(const Instruction& i) : op_(i.op), at_(i.n.data()), end_(i.n.data() + i.n.size()) {}
  int64_t next() {
    if (at_ == end_) throw std::invalid_argument("instruction " + std::to_string(op_) + " has too few numbers");
    return *at_++;
  }
  void fill(int64_t* to, int count) {
    for (int i = 0; i < count; ++i) to[i] = next();
  }
  const int64_t* rest(int64_t count) {  // the next numbers, in place
    if (count < 0 || end_ - at_ < count)
      throw std::invalid_argument("instruction " + std::to_string(op_) + " has too few numbers");
    const int64_t* from = at_;
    at_ += count;
    return from;
  }

 private:
  int op_;
  const int64_t *at_, *end_;
};

inline double factor(const Instruction& i, size_t which) {
  if (which >= i.f.size()) throw std::invalid_argument("instruction " + std::to_string(i.op) + " lacks a factor");
  return i.f[which];
}

inline int64_t item_size(int storage) { return storage == kFloat32 ? 4 : storage == kBfloat16 ? 2 : 8; }

template <class At>
Contraction contraction(const Instruction& i, const At& at) {
  Reader n(i);
  Contraction c{};
  c.in = at(0), c.weights = at(1), c.out = at(2), c.residual = at(3);
  c.scale = (const float*)at(4), c.shift = (const float*)at(5);
  c.batch = n.next(), c.lines = n.next(), c.rows = n.next();
  c.in_batch = n.next(), c.in_line = n.next(), c.in_row = n.next();
  c.out_batch = n.next(), c.out_line = n.next(), c.out_row = n.next();
  c.res_batch = n.next(), c.res_line = n.next(), c.res_row = n.next();
  c.outputs = n.next(), c.relu = n.next(), c.out_float = n.next();
  c.run = n.next(), c.segments = n.next();
  c.segment = n.rest(c.segments);
  return c;
}

template <class At>
Elementwise elementwise(const Instruction& i, const At& at) {
  Reader n(i);
  Elementwise e{};
  e.x = at(0), e.y = at(1), e.out = at(2);
  e.op = (int)n.next();
  n.fill(e.size, kMaxDims);
  n.fill(e.x_stride, kMaxDims);
  n.fill(e.y_stride, kMaxDims);
  n.fill(e.out_stride, kMaxDims);
  return e;
}

template <class At>
Pooling pooling(const Instruction& i, const At& at) {
  Reader n(i);
  Pooling p{};
  p.in = at(0), p.out = at(1);
  p.maximum = n.next(), p.count_padding = n.next(), p.adaptive = n.next();
  for (int64_t* to : {&p.batch, &p.channels, &p.in_h, &p.in_w, &p.out_h, &p.out_w, &p.in_batch, &p.in_row,
                      &p.in_pixel, &p.out_batch, &p.out_row, &p.out_pixel, &p.kernel_h, &p.kernel_w, &p.stride_h,
                      &p.stride_w, &p.pad_h, &p.pad_w, &p.dilation_h, &p.dilation_w, &p.divisor})
    *to = n.next();
  return p;
}

template <class At>
Depthwise depthwise(const Instruction& i, const At& at) {
  Reader n(i);
  Depthwise d{};
  d.in = at(0), d.weights = (const float*)at(1), d.out = at(2);
  d.scale = (const float*)at(4), d.shift = (const float*)at(5);
  d.relu = n.next();
  for (int64_t* to : {&d.batch, &d.channels, &d.out_h, &d.out_w, &d.kernel_h, &d.kernel_w, &d.in_batch, &d.in_row,
                      &d.in_pixel, &d.out_batch, &d.out_row, &d.out_pixel, &d.stride_h, &d.stride_w, &d.dilation_h,
                      &d.dilation_w})
    *to = n.next();
  return d;
}

template <class At>
Rows rows(const Instruction& i, const At& at) {
  Reader n(i);
  Rows r{};
  r.in = at(0), r.out = at(1), r.scale = (const float*)at(2), r.shift = (const float*)at(3);
  r.count = n.next(), r.width = n.next(), r.logarithm = n.next();
  r.eps = (float)factor(i, 0);
  return r;
}

template <class At>
GroupNorm group_norm(const Instruction& i, const At& at) {
  Reader n(i);
  GroupNorm g{};
  g.in = at(0), g.out = at(1), g.scale = (const float*)at(2), g.shift = (const float*)at(3);
  for (int64_t* to : {&g.batch, &g.channels, &g.groups, &g.pixels_h, &g.pixels_w, &g.in_batch, &g.in_row,
                      &g.in_pixel, &g.out_batch, &g.out_row, &g.out_pixel})
    *to = n.next();
  g.eps = (float)factor(i, 0);
  return g;
}

template <class At>
Reduce reduction(const Instruction& i, const At& at) {
  Reader n(i);
  Reduce r{};
  r.in = at(0), r.out = at(1);
  r.maximum = n.next();
  for (int64_t* to : {r.outer, r.outer_in, r.outer_out, r.over, r.over_in}) n.fill(to, kMaxDims);
  r.factor = (float)factor(i, 0);
  return r;
}

template <class At>
Attention attention(const Instruction& i, const At& at) {
  Reader n(i);
  Attention a{};
  a.q = at(0), a.k = at(1), a.v = at(2), a.out = at(3);
  for (int64_t* to : {&a.batch, &a.heads, &a.queries, &a.keys, &a.width, &a.value_width}) *to = n.next();
  for (int64_t* to : {a.q_stride, a.k_stride, a.v_stride, a.out_stride}) n.fill(to, 3);
  a.causal = n.next();
  a.scale = (float)factor(i, 0);
  return a;
}

template <class At>
Loss losses(const Instruction& i, const At& at) {
  Reader n(i);
  Loss l{};
  l.outputs = (const float*)at(0);
  l.labels = (const int64_t*)at(1), l.values = (const float*)at(1);
  l.kind = (int)n.next(), l.classes = n.next(), l.samples = n.next(), l.width = n.next();
  return l;
}

struct Convert {
  int64_t count, from, to;
};

inline Convert conversion(const Instruction& i) {
  Reader n(i);
  Convert c{};
  c.count = n.next(), c.from = n.next(), c.to = n.next();
  return c;
}

// Zeros around [batch, height, width, channels] with `top`, `left` more on each side.
struct Border {
  int64_t batch, height, width, channels, top, left;
};

inline Border border(const Instruction& i) {
  Reader n(i);
  Border b{};
  for (int64_t* to : {&b.batch, &b.height, &b.width, &b.channels, &b.top, &b.left}) *to = n.next();
  return b;
}

struct Embedding {
  int64_t count, width, entries;
};

inline Embedding embedding(const Instruction& i) {
  Reader n(i);
  Embedding e{};
  e.count = n.next(), e.width = n.next(), e.entries = n.next();
  return e;
}

}  // namespace fastcomb
