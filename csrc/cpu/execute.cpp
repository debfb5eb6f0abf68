// One instruction: its fields read, and the kernel called.
#include <algorithm>

#include "engine.h"

namespace fastcomb {

void Engine::execute(const Instruction& i, const Frame& frame, char* arena, int64_t block, Worker& w) const {
  const auto at = [&](size_t operand) -> char* {
    const Address& a = i.at[operand];
    if (a.space < 0) return nullptr;
    return (a.space == kArena ? arena : frame.base[a.space]) + a.offset + a.step * block;
  };
  switch (i.op) {
    case kMatmulOp: return k_->matmul(read_matmul(i, at), i.dtype);
    case kUnaryOp: return k_->unary(read_unary(i, at), i.dtype);
    case kBinaryOp: return k_->binary(read_binary(i, at), i.dtype);
    case kIntegersOp: return k_->integers(read_integers(i, at), i.dtype);
    case kChooseOp: return k_->choose(read_choose(i, at), i.dtype);
    case kAffineOp: return k_->affine(read_affine(i, at), i.dtype);
    case kConvertOp: return k_->convert(read_convert(i, at));
    case kPoolOp: return k_->pool(read_pool(i, at), i.dtype);
    case kDepthwiseOp: return k_->depthwise(read_depthwise(i, at), i.dtype);
    case kLayerNormOp: return k_->layer_norm(read_layer_norm(i, at), i.dtype);
    case kSoftmaxOp: return k_->softmax(read_softmax(i, at), i.dtype);
    case kGroupNormOp: return k_->group_norm(read_group_norm(i, at), i.dtype);
    case kReduceOp: return k_->reduce(read_reduce(i, at), i.dtype);
    case kAttentionOp: {
      const Attention a = read_attention(i, at);
      return k_->attention(a, i.dtype, (float*)w.scratch.get(attention_scratch(a) * sizeof(float)));
    }
    case kProductOp: {
      const Product p = read_product(i, at);
      return k_->product(p, i.dtype, (float*)w.scratch.get((p.inner + kPanel) * kPanel * sizeof(float)));
    }
    case kArrangeOp: {
      const Arrange a = read_arrange(i, at);
      return k_->arrange(a, i.dtype, (float*)w.scratch.get((a.segments * a.run + 1) * k_->width * sizeof(float)));
    }
    case kCumsumOp: return k_->cumsum(read_cumsum(i, at), i.dtype);
    case kResampleOp: return k_->resample(read_resample(i, at), i.dtype);
    case kMomentsOp: {
      const Moments m = read_moments(i, at);
      const int64_t channels = m.size[kMaxDims - 1];
      double* to = frame.moments + block * 3 * channels;
      float* pivot = (float*)w.scratch.get(channels * sizeof(float));
      k_->moments(m, i.dtype, {pivot, to + channels, to + 2 * channels});
      std::copy(pivot, pivot + channels, to);
      return;
    }
    case kLossOp: {
      const Loss l = read_loss(i, at);
      double* to = const_cast<double*>(frame.sums.data()) + 2 * block;
      const int64_t lanes = (l.width + k_->width) * k_->width * (l.kind == kSoftCrossEntropy ? 2 : 1);
      float* scratch = (float*)w.scratch.get(lanes * sizeof(float));
      float* each = frame.each ? frame.each + block * frame.block : nullptr;
      return k_->loss(l, {scratch, to, to + 1, each, frame.each_correct});
    }
    case kBorderOp: return k_->border(read_border(i, at), i.dtype);
    case kZeroOp: return k_->zero(read_zero(i, at), i.dtype);
    case kEmbeddingOp: return k_->embedding(read_embedding(i, at), i.dtype);
    case kTakeOp: return k_->take(read_take(i, at), i.dtype);
    case kScatterOp: return k_->scatter(read_scatter(i, at), i.dtype);
    case kOrderOp: return k_->order(read_order(i, at), i.dtype);
    case kFoldBatchNormOp: return k_->fold_batch_norm(read_fold_batch_norm(i, at));
    case kTransposeOp: return k_->transpose(read_transpose(i, at));
  }
}

}  // namespace fastcomb
