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

void run_mix(const Job& job, int number, uintptr_t stream) {
  const uint32_t blocks = (job.parameter.count + kThreads * 8 - 1) / (kThreads * 8);
  const dim3 grid(blocks, (job.combinations + kTogether - 1) / kTogether);
  const auto on = (cudaStream_t)stream;
  if (number == 0) mix<Float32><<<grid, kThreads, 0, on>>>(job);
  else if (number == 1) mix<Bfloat16><<<grid, kThreads, 0, on>>>(job);
  else mix<Float16><<<grid, kThreads, 0, on>>>(job);
  check(cudaGetLastError());
}

void run_float32(const Network& net, int tiles, bool saves, cudaStream_t stream);
void run_bfloat16(const Network& net, int tiles, bool saves, cudaStream_t stream);
void run_float16(const Network& net, int tiles, bool saves, cudaStream_t stream);

void run_network(const Network& net, int number, int tiles, bool saves, uintptr_t stream) {
  const auto run = number == 0 ? run_float32 : number == 1 ? run_bfloat16 : run_float16;
  run(net, tiles, saves, (cudaStream_t)stream);
}

int shared_memory(int device) {
  int bytes;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

}  // namespace fastcomb::cuda
