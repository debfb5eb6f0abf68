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

// On the current device and a stream; `dtype` (of Dtype) is what is computed in.
void run_network(const Network& net, int dtype, int tiles, bool saves, uintptr_t stream);
void run_mix(const Job& job, int dtype, uintptr_t stream);

// body(Type{}) for the compute type of a dtype; throws for one without kernels.
template <class Body>
void with_dtype(int dtype, const Body& body) {
  switch (dtype) {
    case kFloat32: return body(Float32{});
    case kBfloat16: return body(Bfloat16{});
    case kFloat16: return body(Float16{});
    default: throw std::invalid_argument("a dtype without kernels");
  }
}

// Bytes of shared memory that a block may have on a device.
int shared_memory(int device);

#ifdef __CUDACC__
inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}
#endif

}  // namespace fastcomb::cuda
