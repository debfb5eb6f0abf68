#include "network.cuh"

namespace fastcomb::cuda {

void run_float32(const Network& net, int tiles, bool saves, cudaStream_t stream) {
  choose<Float32, 1>(net, tiles, saves, stream);
}

}  // namespace fastcomb::cuda
