// Parameters of combinations, written to memory: each thread mixes eight entries for several combinations from
// one reading of the networks, and writes 16 bytes at a time.
#pragma once

#include "mma.h"

namespace fastcomb::cuda {

constexpr int kTogether = 8;

struct Job {
  Mixing mixing;
  Mixed parameter;
  const int64_t* index;  // [combinations]
  int combinations;
  void* out;  // [combinations, count]
};

// The eight entries from ``first`` on of combinations [group · kTogether, …).
template <class Type>
FASTCOMB_HOST_DEVICE inline void mix_eight(const Job& job, uint32_t first, int group) {
  using Stored = typename Type::Stored;
  const uint32_t count = job.parameter.count;
  const Eight a = entries(job.parameter.a, count, first), b = entries(job.parameter.others, count, first);
  const int end = job.combinations < (group + 1) * kTogether ? job.combinations : (group + 1) * kTogether;
  for (int k = group * kTogether; k < end; ++k) {
    const Eight value = mixed(job.mixing, job.parameter, (uint64_t)job.index[k], first, a, b);
    Stored* out = (Stored*)job.out + (size_t)k * count + first;
#ifdef __CUDA_ARCH__
    if (first + 8 <= count && ((uintptr_t)out & 15) == 0) {
      uint32_t words[2 * Type::kBytes];
      for (int w = 0; w < 2 * Type::kBytes; ++w)
        words[w] = Type::kBytes == 4 ? Type::bits(value.value[w])
                                     : Type::bits(value.value[2 * w]) | Type::bits(value.value[2 * w + 1]) << 16;
      for (int w = 0; w < 2 * Type::kBytes; w += 4)
        *(uint4*)((uint32_t*)out + w) = make_uint4(words[w], words[w + 1], words[w + 2], words[w + 3]);
      continue;
    }
#endif
    for (uint32_t j = 0; j < 8 && first + j < count; ++j) out[j] = (Stored)Type::bits(value.value[j]);
  }
}

}  // namespace fastcomb::cuda
