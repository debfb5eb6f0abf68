#include "network.cuh"

namespace fastcomb::cuda {

void run_float16(const Network& net, int tiles, bool saves, cudaStream_t stream) {
  choose<Float16, 2>(net, tiles, saves, stream);
}

}  // namespace fastcomb::cuda
