// The kernel of network.h, and its launch; a file for each compute type, so that they compile side by side.
#pragma once

#include "launch.h"

namespace fastcomb::cuda {

// Threads of a block, and blocks that share a multiprocessor's registers: of narrow networks two, so that one
// generates while the other multiplies.
template <int TILES>
constexpr int kThreads = TILES <= 8 ? 192 : 256;
template <int TILES>
constexpr int kBlocks = TILES <= 8 ? 2 : 1;

template <class Type, int TILES, int PARTS, bool SAVES>
__global__ void __launch_bounds__(kThreads<TILES>, kBlocks<TILES>) network(const __grid_constant__ Network net) {
  constexpr int kOwn = kThreads<TILES>, kWarps = kOwn / 32;
  extern __shared__ __align__(16) unsigned char memory[];
  float* vectors = (float*)(memory + net.weight_bytes);
  __shared__ Found part[kWarps];
  const uint32_t bytes = net.weight_bytes + net.vectors * 4;
  for (uint32_t at = threadIdx.x * 4; at < bytes; at += kOwn * 4) *(uint32_t*)(memory + at) = 0;  // padding
  __syncthreads();
  const int warp = threadIdx.x / 32;
  for (int k = blockIdx.x; k < net.combinations; k += gridDim.x) {
    generate<Type>(net, k, threadIdx.x, kOwn, memory, vectors);
    __syncthreads();
    Lane<Found> found;
    found[0] = Found{0, 0};
    Pass<Type, TILES, PARTS, SAVES> pass;
    for (int tile = warp * PARTS; tile < net.tiles; tile += kWarps * PARTS) pass.run(net, tile, memory, vectors, found);
    for (int mask = 16; mask; mask /= 2) {
      found[0].loss += __shfl_xor_sync(0xFFFFFFFFu, found[0].loss, mask);
      found[0].correct += __shfl_xor_sync(0xFFFFFFFFu, found[0].correct, mask);
    }
    if (threadIdx.x % 32 == 0) part[warp] = found[0];
    __syncthreads();
    if (threadIdx.x == 0) {
      Found all{0, 0};
      for (int w = 0; w < kWarps; ++w) all.loss += part[w].loss, all.correct += part[w].correct;
      net.sums[k] = all.loss;
      net.sums[net.combinations + k] = all.correct;
    }
    // the next combination's first barrier comes before ``part`` is written again
  }
}

template <class Type, int TILES, int PARTS, bool SAVES>
static void launch(const Network& net, cudaStream_t stream) {
  constexpr int kOwn = kThreads<TILES>;
  const auto kernel = network<Type, TILES, PARTS, SAVES>;
  const int shared = (int)(net.weight_bytes + net.vectors * 4);
  int device, processors, together, most_shared;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  // the same for every network, since other threads may launch; 256 are left for the sums of the warps
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared - 256));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&together, kernel, kOwn, shared));
  const int most = processors * together, blocks = net.combinations < most ? net.combinations : most;
  kernel<<<blocks, kOwn, shared, stream>>>(net);
  check(cudaGetLastError());
}

// Networks up to 64 wide; up to 128 wide; and those that add what was kept, which has to stay in registers.
template <class Type, int PARTS>
static void choose(const Network& net, int tiles, bool saves, cudaStream_t stream) {
  if (saves) return launch<Type, 16, 1, true>(net, stream);
  tiles <= 8 ? launch<Type, 8, PARTS, false>(net, stream) : launch<Type, 16, PARTS, false>(net, stream);
}

}  // namespace fastcomb::cuda
