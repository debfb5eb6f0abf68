// What the bindings call of the kernels.
#pragma once

#include <stdexcept>
#include <string>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#include "network.h"

namespace fastcomb::cuda {

// Arguments of a mixing of combinations: see mix.h.
struct Job;

// On the current device and a stream: "number" is of the compute type (0 float32, 1 bfloat16, 2 float16).
void run_network(const Network& net, int number, int tiles, bool saves, uintptr_t stream);
void run_mix(const Job& job, int number, uintptr_t stream);
// Bytes of shared memory that a block may have on a device.
int shared_memory(int device);

#ifdef __CUDACC__
inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}
#endif

}  // namespace fastcomb::cuda
