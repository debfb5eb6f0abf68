#include "verify.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "../schema.h"

namespace fastcomb {

namespace {

typedef std::pair<int64_t, int64_t> Loop;  // size and stride, in elements
typedef __int128 Wide;                     // products of sizes and strides, whatever they are

constexpr int64_t kMost = INT64_C(1) << 56;

// A product of sizes, none of which may be negative.
int64_t product(int op, std::initializer_list<int64_t> sizes);

[[noreturn]] void refuse(int op, const char* what) {
  throw std::invalid_argument((op < 0 ? "an address" : operations()[op].name) + std::string(": ") + what);
}

int64_t product(int op, std::initializer_list<int64_t> sizes) {
  Wide total = 1;
  for (const int64_t size : sizes) {
    if (size < 0) refuse(op, "a negative size");
    total *= size;
    if (total > kMost) refuse(op, "a size beyond all memory");
  }
  return (int64_t)total;
}

struct Checker {
  const Instruction& i;
  int64_t last_block;
  Extents& extents;

  // `count` elements of `item` bytes at each place of nested loops, and `from` elements on.
  void touch(size_t which, std::initializer_list<Loop> loops, int64_t count, int64_t item, int64_t from = 0) const {
    if (which >= i.at.size() || i.at[which].space < 0) return;
    Wide low = from, high = from;
    for (const auto& [size, stride] : loops) {
      if (size < 0) refuse(i.op, "a negative size");
      if (size == 0) return;
      (stride < 0 ? low : high) += (Wide)(size - 1) * stride;
    }
    if (count < 0) refuse(i.op, "a negative count");
    if (count == 0) return;
    range(i.at[which], low * item, (high + count) * item);
  }

  void range(const Address& a, Wide low, Wide high) const {
    if (a.step < 0) refuse(i.op, "a negative step");
    low += a.offset, high += a.offset + (Wide)a.step * last_block;
    if (low < 0) refuse(i.op, "an address before its memory");
    if (high > kMost) refuse(i.op, "an address beyond all memory");
    int64_t limit;
    switch (a.space) {
      case kArena: limit = extents.arena; break;
      case kLasting: limit = extents.lasting; break;
      case kWeights: limit = extents.weights; break;
      case kConstants: limit = extents.constants; break;
      default: {
        const size_t at = a.space - kStatistics;
        if (extents.needed.size() <= at) extents.needed.resize(at + 1, 0);
        extents.needed[at] = std::max(extents.needed[at], (int64_t)high);
        return;
      }
    }
    if (high > limit) refuse(i.op, "an address beyond its memory");
  }

  void vector(size_t which, int64_t count) const { touch(which, {}, count, 4); }
};

// Single elements at the places of the loops, and at those of one more.
void strided(const Checker& c, size_t which, const int64_t* size, const int64_t* stride, int64_t item,
             Loop more = {1, 0}) {
  c.touch(which,
          {{size[0], stride[0]},
           {size[1], stride[1]},
           {size[2], stride[2]},
           {size[3], stride[3]},
           {size[4], stride[4]},
           {size[5], stride[5]},
           more},
          1, item);
}

}  // namespace

void verify(const Address& a, int64_t bytes, Extents& extents) {
  if (a.space < 0) return;
  const Instruction none{-1, 0, {}, {}, {}};
  Checker{none, 0, extents}.range(a, 0, bytes);
}

void verify(const Instruction& i, const Kernels& k, int64_t last_block, Extents& extents) {
  const Checker check{i, last_block, extents};
  const auto nowhere = [](size_t) -> char* { return nullptr; };
  check_fields(i);
  const int64_t item = item_size(i.dtype);
  const auto rows = [&](int64_t count, int64_t width) {  // one operand's into another's
    const int64_t entries = product(i.op, {count, width});
    if (width < 1) refuse(i.op, "rows without entries");
    check.touch(0, {}, entries, item), check.touch(1, {}, entries, item);
  };
  switch (i.op) {
    case kMatmulOp: {
      const Matmul c = read_matmul(i, nowhere);
      if (c.run < 0 || c.outputs < 0) refuse(i.op, "a negative size");
      if (c.outputs > kMost) refuse(i.op, "a size beyond all memory");
      const int64_t lanes = (c.outputs + k.width - 1) / k.width * k.width;
      for (int64_t s = 0; s < c.segments; ++s)
        check.touch(0, {{c.batch, c.in_batch}, {c.lines, c.in_line}, {c.rows, c.in_row}}, c.run, item, c.segment[s]);
      const bool half = k.pairs && i.dtype == kBfloat16;
      if (half && c.run % 2) refuse(i.op, "an odd run of pairs");
      check.touch(1, {}, product(i.op, {lanes, c.segments, c.run}), half ? 2 : 4);
      check.touch(2, {{c.batch, c.out_batch}, {c.lines, c.out_line}, {c.rows, c.out_row}}, c.outputs,
                  c.out_float ? 4 : item);
      check.touch(3, {{c.batch, c.res_batch}, {c.lines, c.res_line}, {c.rows, c.res_row}}, c.outputs, item);
      check.vector(4, c.outputs), check.vector(5, c.outputs);
      return;
    }
    case kUnaryOp: {
      const Unary u = read_unary(i, nowhere);
      strided(check, 0, u.size, u.x_stride, item);
      return strided(check, 1, u.size, u.out_stride, item);
    }
    case kBinaryOp: {
      const Binary b = read_binary(i, nowhere);
      strided(check, 0, b.size, b.x_stride, item);
      strided(check, 1, b.size, b.y_stride, item);
      return strided(check, 2, b.size, b.out_stride, item);
    }
    case kIntegersOp: {
      const Integers c = read_integers(i, nowhere);
      strided(check, 0, c.size, c.x_stride, 8);
      strided(check, 1, c.size, c.y_stride, 8);
      return strided(check, 2, c.size, c.out_stride, item);
    }
    case kChooseOp: {
      const Choose c = read_choose(i, nowhere);
      strided(check, 0, c.size, c.condition_stride, item);
      strided(check, 1, c.size, c.x_stride, item);
      strided(check, 2, c.size, c.y_stride, item);
      return strided(check, 3, c.size, c.out_stride, item);
    }
    case kCumsumOp: {
      const Cumsum c = read_cumsum(i, nowhere);
      strided(check, 0, c.size, c.x_stride, item);
      return strided(check, 1, c.size, c.out_stride, item);
    }
    case kAffineOp: {
      const Affine a = read_affine(i, nowhere);
      strided(check, 0, a.size, a.x_stride, item);
      strided(check, 1, a.size, a.y_stride, item);
      strided(check, 2, a.size, a.out_stride, item);
      check.vector(3, a.size[kMaxDims - 1]), check.vector(4, a.size[kMaxDims - 1]);
      return;
    }
    case kMomentsOp: {
      const Moments m = read_moments(i, nowhere);
      return strided(check, 0, m.size, m.x_stride, item);
    }
    case kConvertOp: {
      const Convert c = read_convert(i, nowhere);
      for (const int dtype : {c.from_dtype, c.to_dtype})
        if (dtype != kFloat32 && dtype != kBfloat16) refuse(i.op, "a dtype that is neither float32 nor bfloat16");
      check.touch(0, {}, c.count, item_size(c.from_dtype));
      return check.touch(1, {}, c.count, item_size(c.to_dtype));
    }
    case kPoolOp: {
      const Pool p = read_pool(i, nowhere);
      for (const int64_t size :
           {p.kernel_h, p.kernel_w, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.in_h, p.in_w})
        if (size < 1 || size > INT32_MAX) refuse(i.op, "a window without a size");
      for (const int64_t size : {p.pad_h, p.pad_w, p.out_h, p.out_w, p.batch, p.channels})
        if (size < 0 || size > INT32_MAX) refuse(i.op, "a negative size");
      check.touch(0, {{p.batch, p.in_batch}, {p.in_h, p.in_row}, {p.in_w, p.in_pixel}}, p.channels, item);
      return check.touch(1, {{p.batch, p.out_batch}, {p.out_h, p.out_row}, {p.out_w, p.out_pixel}}, p.channels, item);
    }
    case kDepthwiseOp: {
      const Depthwise d = read_depthwise(i, nowhere);
      check.touch(0,
                  {{d.batch, d.in_batch},
                   {d.out_h, d.stride_h * d.in_row},
                   {d.out_w, d.stride_w * d.in_pixel},
                   {d.kernel_h, d.dilation_h * d.in_row},
                   {d.kernel_w, d.dilation_w * d.in_pixel}},
                  d.channels, item);
      check.vector(1, product(i.op, {d.kernel_h, d.kernel_w, d.channels}));
      check.touch(2, {{d.batch, d.out_batch}, {d.out_h, d.out_row}, {d.out_w, d.out_pixel}}, d.channels, item);
      check.vector(3, d.channels), check.vector(4, d.channels);
      return;
    }
    case kLayerNormOp: {
      const LayerNorm r = read_layer_norm(i, nowhere);
      rows(r.count, r.width);
      check.vector(2, r.width), check.vector(3, r.width);
      return;
    }
    case kSoftmaxOp: {
      const Softmax r = read_softmax(i, nowhere);
      return rows(r.count, r.width);
    }
    case kGroupNormOp: {
      const GroupNorm g = read_group_norm(i, nowhere);
      if (g.groups < 1 || g.channels < 1 || g.channels % g.groups)
        refuse(i.op, "groups that do not divide the channels");
      check.touch(0, {{g.batch, g.in_batch}, {g.pixels_h, g.in_row}, {g.pixels_w, g.in_pixel}}, g.channels, item);
      check.touch(1, {{g.batch, g.out_batch}, {g.pixels_h, g.out_row}, {g.pixels_w, g.out_pixel}}, g.channels, item);
      check.vector(2, g.channels), check.vector(3, g.channels);
      return;
    }
    case kReduceOp: {
      const Reduce r = read_reduce(i, nowhere);
      int64_t size[2 * kMaxDims], stride[2 * kMaxDims];
      std::copy(r.outer, r.outer + kMaxDims, size), std::copy(r.over, r.over + kMaxDims, size + kMaxDims);
      std::copy(r.outer_in, r.outer_in + kMaxDims, stride);
      std::copy(r.over_in, r.over_in + kMaxDims, stride + kMaxDims);
      Wide last = 0;  // of the inner loops, added to every place of the outer ones
      for (int d = kMaxDims; d < 2 * kMaxDims; ++d) {
        if (size[d] < 0 || stride[d] < 0) refuse(i.op, "a negative size or stride");
        last += (Wide)std::max<int64_t>(0, size[d] - 1) * stride[d];
      }
      if (last > kMost) refuse(i.op, "a size beyond all memory");
      check.touch(0,
                  {{size[0], stride[0]},
                   {size[1], stride[1]},
                   {size[2], stride[2]},
                   {size[3], stride[3]},
                   {size[4], stride[4]},
                   {size[5], stride[5]}},
                  (int64_t)last + 1, item);
      strided(check, 1, r.outer, r.outer_out, item);
      return;
    }
    case kAttentionOp: {
      const Attention a = read_attention(i, nowhere);
      if (a.keys < 1 || a.width < 1 || a.keys > INT32_MAX) refuse(i.op, "attention without keys");
      const auto of = [&](size_t which, int64_t tokens, const int64_t* stride, int64_t width) {
        check.touch(which, {{a.batch, stride[0]}, {a.heads, stride[1]}, {tokens, stride[2]}}, width, item);
      };
      of(0, a.queries, a.q_stride, a.width), of(1, a.keys, a.k_stride, a.width);
      of(2, a.keys, a.v_stride, a.value_width), of(4, a.queries, a.out_stride, a.value_width);
      if (a.width > INT32_MAX) refuse(i.op, "a size beyond all memory");
      return check.touch(3,
                         {{a.batch, a.mask_stride[0]},
                          {a.heads, a.mask_stride[1]},
                          {a.queries, a.mask_stride[2]},
                          {a.keys, a.mask_stride[3]}},
                         1, item);
    }
    case kProductOp: {
      const Product p = read_product(i, nowhere);
      if (p.inner < 1 || p.inner > INT32_MAX) refuse(i.op, "matrices without inner entries");
      const auto of = [&](size_t which, const int64_t* stride, Loop one, Loop other, int64_t count) {
        check.touch(which,
                    {{p.batch[0], stride[0]},
                     {p.batch[1], stride[1]},
                     {p.batch[2], stride[2]},
                     {p.batch[3], stride[3]},
                     one,
                     other},
                    count, item);
      };
      of(0, p.x_batch, {p.rows, p.x_row}, {p.inner, p.x_inner}, 1);
      of(1, p.y_batch, {p.inner, p.y_inner}, {p.columns, p.y_column}, 1);
      return of(2, p.out_batch, {p.rows, p.out_row}, {1, 0}, p.columns);
    }
    case kArrangeOp: {
      const Arrange a = read_arrange(i, nowhere);
      if (a.valid < 0 || a.valid > a.run || a.run > INT32_MAX) refuse(i.op, "runs that are shorter than their entries");
      if (a.outputs > kMost) refuse(i.op, "a size beyond all memory");
      for (int64_t s = 0; s < a.segments; ++s)
        check.touch(0, {{a.outputs, a.output_stride}, {a.valid, a.run_stride}}, 1, a.wide ? 4 : item, a.segment[s]);
      const int64_t lanes = (a.outputs + k.width - 1) / k.width * k.width;
      const bool half = k.pairs && i.dtype == kBfloat16;
      if (half && a.run % 2) refuse(i.op, "an odd run of pairs");
      return check.touch(1, {}, product(i.op, {lanes, a.segments, a.run}), half ? 2 : 4);
    }
    case kResampleOp: {
      const Resample r = read_resample(i, nowhere);
      check.touch(0, {{r.batch, r.in_batch}, {r.in_h, r.in_row}, {r.in_w, r.in_pixel}}, r.channels, item);
      const int64_t rows = product(i.op, {r.out_h, r.taps_h}), pixels = product(i.op, {r.out_w, r.taps_w});
      check.touch(1, {}, rows, 8), check.vector(2, rows);
      check.touch(3, {}, pixels, 8), check.vector(4, pixels);
      return check.touch(5, {{r.batch, r.out_batch}, {r.out_h, r.out_row}, {r.out_w, r.out_pixel}}, r.channels, item);
    }
    case kLossOp: {
      const Loss l = read_loss(i, nowhere);
      const int64_t rows = product(i.op, {l.samples, l.positions}), entries = product(i.op, {rows, l.width});
      if (l.width < 1 || l.width > INT32_MAX || l.positions < 1) refuse(i.op, "outputs without entries");
      const bool numbers = l.kind == kCrossEntropy || l.kind == kNll;
      if (!numbers && l.kind != kSoftCrossEntropy) return check.vector(0, entries), check.vector(1, entries);
      const auto of = [&](size_t which, const int64_t* stride) {
        check.touch(which, {{l.samples, stride[0]}, {l.positions, stride[1]}, {l.width, stride[2]}}, 1, 4);
      };
      of(0, l.stride);
      return numbers ? check.touch(1, {}, rows, 8) : of(1, l.target_stride);
    }
    case kBorderOp: {
      const Border b = read_border(i, nowhere);
      for (const int64_t size : {b.batch, b.height, b.width, b.channels, b.top, b.left})
        if (size < 0 || size > INT32_MAX) refuse(i.op, "a negative size");
      const int64_t lines = b.height + 2 * b.top, pixels = b.width + 2 * b.left;
      return check.touch(0, {}, product(i.op, {b.batch, lines, pixels, b.channels}), item);
    }
    case kZeroOp: return check.touch(0, {}, read_zero(i, nowhere).count, item);
    case kEmbeddingOp: {
      const Embedding e = read_embedding(i, nowhere);
      strided(check, 0, e.size, e.index_stride, 8);
      check.touch(1, {}, product(i.op, {e.entries, e.width}), item);
      const int64_t* n = e.size;
      return check.touch(2, {}, product(i.op, {n[0], n[1], n[2], n[3], n[4], n[5], e.width}), item);
    }
    case kTakeOp: {
      const Take t = read_take(i, nowhere);
      strided(check, 0, t.size, t.index_stride, 8);
      strided(check, 1, t.size, t.x_stride, item, {t.entries, t.x_entry});
      return strided(check, 2, t.size, t.out_stride, item);
    }
    case kScatterOp: {
      const Scatter s = read_scatter(i, nowhere);
      strided(check, 0, s.size, s.index_stride, 8);
      strided(check, 1, s.size, s.x_stride, item);
      return strided(check, 2, s.size, s.out_stride, item, {s.entries, s.out_entry});
    }
    case kOrderOp: {
      const Order o = read_order(i, nowhere);
      const int64_t* n = o.size;
      if (o.kept < 0 || o.kept > n[5]) refuse(i.op, "more than there is");
      const int64_t results = product(i.op, {n[0], n[1], n[2], n[3], n[4], o.kept});
      if (n[5] > INT32_MAX) refuse(i.op, "a size beyond all memory");
      strided(check, 0, n, o.x_stride, item);
      return check.touch(1, {}, results, item), check.touch(2, {}, results, 8);
    }
    case kFoldBatchNormOp: {
      const int64_t channels = read_fold_batch_norm(i, nowhere).channels;
      for (size_t operand = 0; operand < 7; ++operand) check.vector(operand, channels);
      return;
    }
    case kTransposeOp: {
      const Transpose t = read_transpose(i, nowhere);
      const int64_t entries = product(i.op, {t.rows, t.columns});
      return check.vector(0, entries), check.vector(1, entries);
    }
  }
}

}  // namespace fastcomb
