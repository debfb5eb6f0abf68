// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): one counter at a
// time, for host and device.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define FASTCOMB_HOST_DEVICE __host__ __device__
#else
#define FASTCOMB_HOST_DEVICE
#endif

namespace fastcomb {

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;

struct Words {
  uint32_t w[4];
};

// The four words drawn for one counter.
FASTCOMB_HOST_DEVICE inline Words philox4x32_10(Words c, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = (uint64_t)kPhiloxM0 * c.w[0], p1 = (uint64_t)kPhiloxM1 * c.w[2];
    c = Words{{(uint32_t)(p1 >> 32) ^ c.w[1] ^ key0, (uint32_t)p1, (uint32_t)(p0 >> 32) ^ c.w[3] ^ key1, (uint32_t)p0}};
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
  return c;
}

// The unit that a step of a unit's chain of coefficients draws from; the first (0) is the unit itself.
FASTCOMB_HOST_DEVICE inline uint32_t step_unit(uint32_t unit, size_t step) { return unit ^ (uint32_t)step << 24; }

// What all counters of one (seed, unit, combination) share: round keys, and the rounds that do not depend
// on the block number worked out once.
struct Stream {
  uint64_t key0[10], key1[10];  // in 64 bits, ready to broadcast
  uint64_t first1, first2;      // after the first round: word 1, and what is xored into word 2
  uint64_t second2, second3;    // the same for the second round: into word 2, and word 3

  Stream(uint64_t seed, uint32_t unit, uint64_t index) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += kPhiloxW0, k1 += kPhiloxW1) {
      key0[round] = k0;
      key1[round] = k1;
    }
    const uint64_t p1 = (uint64_t)kPhiloxM1 * (uint32_t)index;
    const uint64_t first0 = (uint32_t)(p1 >> 32) ^ unit ^ key0[0];
    first1 = (uint32_t)p1;
    first2 = (uint32_t)(index >> 32) ^ key1[0];
    const uint64_t p0 = (uint64_t)kPhiloxM0 * first0;
    second2 = p0 >> 32;
    second3 = (uint32_t)p0;
  }
};

}  // namespace fastcomb
