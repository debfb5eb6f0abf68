// The kernel of mix.h, and all launches.
#include "launch.h"
#include "mix.h"

namespace fastcomb::cuda {

constexpr int kThreads = 128;

template <class Type>
__global__ void __launch_bounds__(kThreads) mix(const __grid_constant__ Job job) {
  const uint32_t first = (blockIdx.x * kThreads + threadIdx.x) * 8;
  if (first < job.parameter.count) mix_eight<Type>(job, first, blockIdx.y);
}

void run_mix(const Job& job, int dtype, uintptr_t stream) {
  const uint32_t blocks = (job.parameter.count + kThreads * 8 - 1) / (kThreads * 8);
  const dim3 grid(blocks, (job.combinations + kTogether - 1) / kTogether);
  with_dtype(dtype, [&](auto type) { mix<decltype(type)><<<grid, kThreads, 0, (cudaStream_t)stream>>>(job); });
  check(cudaGetLastError());
}

void run_float32(const Network& net, int tiles, bool saves, cudaStream_t stream);
void run_bfloat16(const Network& net, int tiles, bool saves, cudaStream_t stream);
void run_float16(const Network& net, int tiles, bool saves, cudaStream_t stream);

void run_network(const Network& net, int dtype, int tiles, bool saves, uintptr_t stream) {
  const auto on = (cudaStream_t)stream;
  switch (dtype) {
    case kFloat32: return run_float32(net, tiles, saves, on);
    case kBfloat16: return run_bfloat16(net, tiles, saves, on);
    case kFloat16: return run_float16(net, tiles, saves, on);
    default: throw std::invalid_argument("a dtype without kernels");
  }
}

int shared_memory(int device) {
  int bytes;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

}  // namespace fastcomb::cuda
