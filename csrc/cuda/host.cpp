// The kernels' code on the host, for tests: what a device computes, a block after another.
#include <vector>

#include "launch.h"
#include "mix.h"

namespace fastcomb::cuda {

constexpr int kThreads = 256, kWarps = kThreads / 32;

template <class Type, int TILES, int PARTS, bool SAVES>
static void run(const Network& net) {
  std::vector<unsigned char> weights(net.weight_bytes);
  std::vector<float> vectors(net.vectors);
  for (int k = 0; k < net.combinations; ++k) {
    for (int t = 0; t < kThreads; ++t) generate<Type>(net, k, t, kThreads, weights.data(), vectors.data());
    Found all{0, 0};
    for (int warp = 0; warp < kWarps; ++warp) {
      Lane<Found> found;
      for (Found& one : found.of) one = Found{0, 0};
      Pass<Type, TILES, PARTS, SAVES> pass;
      for (int tile = warp * PARTS; tile < net.tiles; tile += kWarps * PARTS)
        pass.run(net, tile, weights.data(), vectors.data(), found);
      for (const Found& one : found.of) all.loss += one.loss, all.correct += one.correct;
    }
    net.sums[k] = all.loss;
    net.sums[net.combinations + k] = all.correct;
  }
}

template <class Type, int PARTS>
static void choose(const Network& net, int tiles, bool saves) {
  if (saves) return run<Type, 16, 1, true>(net);
  tiles <= 8 ? run<Type, 8, PARTS, false>(net) : run<Type, 16, PARTS, false>(net);
}

void run_network(const Network& net, int dtype, int tiles, bool saves, uintptr_t) {
  with_dtype(dtype, [&](auto type) { choose<decltype(type), decltype(type)::kBytes == 4 ? 1 : 2>(net, tiles, saves); });
}

template <class Type>
static void mix(const Job& job) {
  for (int group = 0; group * kTogether < job.combinations; ++group)
    for (uint32_t first = 0; first < job.parameter.count; first += 8) mix_eight<Type>(job, first, group);
}

void run_mix(const Job& job, int dtype, uintptr_t) {
  with_dtype(dtype, [&](auto type) { mix<decltype(type)>(job); });
}

int shared_memory(int) { return 227 << 10; }

}  // namespace fastcomb::cuda
