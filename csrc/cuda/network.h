// A whole network for one combination in one block: weights are generated into shared memory in the order in
// which the matrix instructions read them, and tiles of samples pass through all layers in registers, to the
// loss. The same code runs on the host, a warp's 32 lanes in turn: so it is tested without a device.
#pragma once

#include "mma.h"

namespace fastcomb::cuda {

constexpr int kMaxLayers = 12;

// activation(norm(weight · x + bias) + saved)
struct Layer {
  Mixed weight, bias, gamma, beta;
  const float* mean;  // of a batch norm, and its variance: [outputs] for every combination, or for all
  const float* variance;
  int64_t apart;                      // entries from one combination's statistics to the next, 0 for all
  int inputs, outputs, steps, tiles;  // steps of the inputs, tiles of 8 outputs
  int norm, activation;               // of NormKind; of Function: identity, relu, gelu, gelu_tanh or silu
  float eps;
  int save, add;                  // keep the result; add what was kept
  uint32_t weight_at, vector_at;  // bytes, floats
};

struct Network {
  Mixing mixing;
  Layer layer[kMaxLayers];
  int layers, loss, classes, samples, tiles, combinations;
  const void* x;                   // [tiles][steps][32 lanes] of FragmentA
  const void* targets;             // int64 [samples], or float [samples, classes] for kMse
  const int64_t* index;            // [combinations]
  double* sums;                    // [2, combinations]: loss and correct answers
  uint32_t weight_bytes, vectors;  // of shared memory: bytes, floats
};

// A layer's vectors, one after another: what is added to the sums, what multiplies then, what is added last.
constexpr int kVectors = 3;

// Part ``t`` of ``of`` of the generation of a combination's weights and vectors.
template <class Type>
FASTCOMB_HOST_DEVICE inline void generate(const Network& net, int k, int t, int of, unsigned char* weights,
                                          float* vectors) {
  const uint64_t index = (uint64_t)net.index[k];
  for (int l = 0; l < net.layers; ++l) {
    const Layer& layer = net.layer[l];
    auto* out = (typename Type::Stored*)(weights + layer.weight_at);
    const uint32_t inputs = layer.inputs, count = layer.weight.count;
    for (uint32_t first = (uint32_t)t * 8; first < count; first += (uint32_t)of * 8) {
      const Eight value = mixed(net.mixing, layer.weight, index, first);
      uint32_t o = first / inputs, i = first - o * inputs;
      for (uint32_t j = 0; j < 8 && first + j < count; ++j) {
        out[place<Type>(o, i, layer.tiles)] = (typename Type::Stored)Type::bits(value.value[j]);
        if (++i == inputs) {
          i = 0;
          ++o;
        }
      }
    }
    const uint32_t outputs = layer.outputs, padded = layer.tiles * 8;
    float* own = vectors + layer.vector_at;
    for (uint32_t first = (uint32_t)t * 8; first < outputs; first += (uint32_t)of * 8) {
      Eight bias, gamma, beta;
      for (int j = 0; j < 8; ++j) bias.value[j] = beta.value[j] = 0.0f, gamma.value[j] = 1.0f;
      if (layer.bias.a) bias = mixed(net.mixing, layer.bias, index, first);
      if (layer.gamma.a) gamma = mixed(net.mixing, layer.gamma, index, first);
      if (layer.beta.a) beta = mixed(net.mixing, layer.beta, index, first);
      for (uint32_t j = 0; j < 8 && first + j < outputs; ++j) {
        const uint32_t o = first + j;
        float add = Type::value(Type::bits(bias.value[j])), times = Type::value(Type::bits(gamma.value[j]));
        if (layer.norm == kBatchNorm) {
          add -= layer.mean[k * layer.apart + o];
          times /= sqrtf(layer.variance[k * layer.apart + o] + layer.eps);
        }
        own[o] = add;
        own[padded + o] = times;
        own[2 * padded + o] = Type::value(Type::bits(beta.value[j]));
      }
    }
  }
}

FASTCOMB_HOST_DEVICE inline float activated(float x, int activation) {
  if (activation == kRelu) return x < 0.0f ? 0.0f : x;  // NaN stays
  if (activation == kGelu) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  if (activation == kGeluTanh) return x / (1.0f + expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
  if (activation == kSilu) return x / (1.0f + expf(-x));
  return x;
}

// Accumulator over the four lanes that share two rows.
FASTCOMB_HOST_DEVICE inline void add_over_row(Lane<Rows>& x) {
  for (int mask = 1; mask < 4; mask *= 2) {
    const Lane<Rows> other = shuffled(x, mask);
    for (int l = 0; l < kLanes; ++l)
      for (int h = 0; h < 2; ++h) x[l].v[h] += other[l].v[h];
  }
}

// What a tile of samples adds to the loss and to the correct answers; a row's lanes share the work, and the
// first of them has the result.
struct Found {
  double loss, correct;
};

// PARTS tiles of 16 samples from ``tile`` on, through a network at most 8 · TILES wide.
template <class Type, int TILES, int PARTS, bool SAVES>
struct Pass {
  static constexpr int kPerStep = Type::kStep / 8, kSteps = TILES / kPerStep;
  Lane<Accumulator> sums[PARTS][TILES];
  Lane<FragmentA> held[PARTS][kSteps];  // the layer's input, in later layers
  Lane<FragmentA> saved[SAVES ? PARTS : 1][kSteps];

  FASTCOMB_HOST_DEVICE void run(const Network& net, int tile, const unsigned char* weights, const float* vectors,
                                Lane<Found>& found) {
    for (int l = 0; l < net.layers; ++l) {
      const Layer& layer = net.layer[l];
      const bool last = l + 1 == net.layers;
      clear();
      const auto* own = (const FragmentB*)(weights + layer.weight_at);
      if (l == 0) {
        for (int step = 0; step < layer.steps; ++step) {
          Lane<FragmentA> left[PARTS];
          FASTCOMB_UNROLL
          for (int p = 0; p < PARTS; ++p)
            for (int e = 0; e < kLanes; ++e)
              left[p][e] = tile + p < net.tiles
                               ? ((const FragmentA*)net.x)[((size_t)(tile + p) * layer.steps + step) * 32 + lane_of(e)]
                               : FragmentA{{0, 0, 0, 0}};
          products(left, own, step, layer.tiles);
        }
      } else {
        FASTCOMB_UNROLL
        for (int step = 0; step < kSteps; ++step)
          if (step < layer.steps) {
            Lane<FragmentA> left[PARTS];
            FASTCOMB_UNROLL
            for (int p = 0; p < PARTS; ++p) left[p] = held[p][step];
            products(left, own, step, layer.tiles);
          }
      }
      FASTCOMB_UNROLL
      for (int p = 0; p < PARTS; ++p) finish(layer, vectors + layer.vector_at, p);
      if (last) {
        FASTCOMB_UNROLL
        for (int p = 0; p < PARTS; ++p) score(net, layer, tile + p, p, found);
      } else {
        FASTCOMB_UNROLL
        for (int p = 0; p < PARTS; ++p) FASTCOMB_UNROLL
        for (int step = 0; step < kSteps; ++step)
          for (int e = 0; e < kLanes; ++e) {
            held[p][step][e] =
                packed<Type>(sums[p][step * kPerStep][e].v, sums[p][step * kPerStep + kPerStep - 1][e].v);
            if (SAVES && layer.save) saved[SAVES ? p : 0][step][e] = held[p][step][e];
          }
      }
    }
  }

 private:
  FASTCOMB_HOST_DEVICE void clear() {
    FASTCOMB_UNROLL
    for (int p = 0; p < PARTS; ++p) FASTCOMB_UNROLL
    for (int n = 0; n < TILES; ++n)
      for (int e = 0; e < kLanes; ++e) sums[p][n][e] = Accumulator{{0, 0, 0, 0}};
  }

  FASTCOMB_HOST_DEVICE void products(const Lane<FragmentA>* left, const FragmentB* weights, int step, int tiles) {
    FASTCOMB_UNROLL
    for (int n = 0; n < TILES; ++n)
      if (n < tiles) {
        Lane<FragmentB> right;
        for (int e = 0; e < kLanes; ++e) right[e] = weights[(step * tiles + n) * 32 + lane_of(e)];
        FASTCOMB_UNROLL
        for (int p = 0; p < PARTS; ++p) multiply<Type>(sums[p][n], left[p], right);
      }
  }

  FASTCOMB_HOST_DEVICE void finish(const Layer& layer, const float* vectors, int p) {
    const int padded = layer.tiles * 8;
    Lane<Rows> mean, scale;
    for (int e = 0; e < kLanes; ++e) mean[e] = Rows{{0, 0}}, scale[e] = Rows{{1, 1}};
    FASTCOMB_UNROLL
    for (int n = 0; n < TILES; ++n)
      if (n < layer.tiles)
        for (int e = 0; e < kLanes; ++e)
          for (int v = 0; v < 4; ++v) sums[p][n][e].v[v] += vectors[column(n, e, v)];
    if (layer.norm == kLayerNorm) {
      FASTCOMB_UNROLL
      for (int n = 0; n < TILES; ++n)  // padding is zero
        if (n < layer.tiles)
          for (int e = 0; e < kLanes; ++e)
            for (int v = 0; v < 4; ++v) mean[e].v[v / 2] += sums[p][n][e].v[v] / layer.outputs;
      add_over_row(mean);
      for (int e = 0; e < kLanes; ++e) scale[e] = Rows{{0, 0}};
      FASTCOMB_UNROLL
      for (int n = 0; n < TILES; ++n)
        if (n < layer.tiles)
          for (int e = 0; e < kLanes; ++e)
            for (int v = 0; v < 4; ++v) {
              const float off = sums[p][n][e].v[v] - mean[e].v[v / 2];
              if (column(n, e, v) < layer.outputs) scale[e].v[v / 2] += off * off / layer.outputs;
            }
      add_over_row(scale);
      for (int e = 0; e < kLanes; ++e)
        for (int h = 0; h < 2; ++h) scale[e].v[h] = 1.0f / sqrtf(scale[e].v[h] + layer.eps);
    }
    FASTCOMB_UNROLL
    for (int n = 0; n < TILES; ++n)
      if (n < layer.tiles)
        for (int e = 0; e < kLanes; ++e)
          for (int v = 0; v < 4; ++v) {
            float& x = sums[p][n][e].v[v];
            const int c = column(n, e, v);
            if (layer.norm == kLayerNorm) x = (x - mean[e].v[v / 2]) * scale[e].v[v / 2];
            x = fmaf(x, vectors[padded + c], vectors[2 * padded + c]);
            if (SAVES && layer.add) x += unpacked<Type>(saved[SAVES ? p : 0][n / kPerStep][e], n % kPerStep).v[v];
            x = activated(x, layer.activation);
          }
  }

  FASTCOMB_HOST_DEVICE void score(const Network& net, const Layer& layer, int tile, int p, Lane<Found>& found) {
    Lane<Rows> own, peak, total, ahead;
    const auto* labels = (const int64_t*)net.targets;
    for (int e = 0; e < kLanes; ++e) {
      own[e] = total[e] = ahead[e] = Rows{{0, 0}};
      peak[e] = Rows{{-INFINITY, -INFINITY}};
    }
    if (net.loss == kMse) {
      const auto* wanted = (const float*)net.targets;
      each(net, layer, tile, p, [&](int e, int h, int64_t row, int c, float x) {
        const float off = x - wanted[row * net.classes + c];
        total[e].v[h] += off * off / net.classes;
      });
      add_over_row(total);
    } else {
      each(net, layer, tile, p, [&](int e, int h, int64_t row, int c, float x) {
        if (c == labels[row]) own[e].v[h] = x;
        peak[e].v[h] = fmaxf(peak[e].v[h], x);
      });
      add_over_row(own);
      for (int mask = 1; mask < 4; mask *= 2) {
        const Lane<Rows> other = shuffled(peak, mask);
        for (int e = 0; e < kLanes; ++e)
          for (int h = 0; h < 2; ++h) peak[e].v[h] = fmaxf(peak[e].v[h], other[e].v[h]);
      }
      each(net, layer, tile, p, [&](int e, int h, int64_t row, int c, float x) {
        total[e].v[h] += expf(x - peak[e].v[h]);
        // as torch.argmax: NaN counts as the largest, and the first of equals is taken
        const float mine = own[e].v[h];
        const bool before = c < labels[row], unknown = x != x;
        const bool over = mine != mine ? unknown && before : unknown || x > mine || (before && x == mine);
        ahead[e].v[h] += over;
      });
      add_over_row(total);
      add_over_row(ahead);
    }
    for (int e = 0; e < kLanes; ++e)
      for (int h = 0; h < 2; ++h) {
        if (lane_of(e) % 4 || (int64_t)tile * 16 + h * 8 + lane_of(e) / 4 >= net.samples) continue;
        const float mine = own[e].v[h], sum = total[e].v[h];
        found[e].loss += net.loss == kMse ? sum : net.loss == kNll ? -mine : logf(sum) + (peak[e].v[h] - mine);
        found[e].correct += net.loss != kMse && ahead[e].v[h] == 0.0f;
      }
  }

  // f(lane, which of its rows, sample, class, value) for every value that belongs to a sample and a class.
  template <class Function>
  FASTCOMB_HOST_DEVICE void each(const Network& net, const Layer& layer, int tile, int p, const Function& f) {
    FASTCOMB_UNROLL
    for (int n = 0; n < TILES; ++n)
      if (n < layer.tiles)
        for (int e = 0; e < kLanes; ++e)
          for (int v = 0; v < 4; ++v) {
            const int64_t row = (int64_t)tile * 16 + v / 2 * 8 + lane_of(e) / 4;
            const int c = column(n, e, v);
            if (row < net.samples && c < net.classes) f(e, v / 2, row, c, sums[p][n][e].v[v]);
          }
  }

  FASTCOMB_HOST_DEVICE static int column(int n, int e, int v) { return n * 8 + lane_of(e) % 4 * 2 + v % 2; }
};

}  // namespace fastcomb::cuda
