// Coefficients and mixed weights, one Philox block of eight entries at a time, for host and device.
#pragma once

#include <math.h>
#include <string.h>

#include "../law.h"

#ifdef __CUDACC__
#define FASTCOMB_UNROLL _Pragma("unroll")
#else
#define FASTCOMB_UNROLL
#endif

namespace fastcomb::cuda {

constexpr int kMaxSteps = 8;

// What the parameters of a mixture share: laws of the steps from the first network to the others.
struct Mixing {
  uint64_t seed;
  int steps;
  Law laws[kMaxSteps];
};

// A mixed parameter: the first network's entries, those of the others [steps, count], and its draws.
struct Mixed {
  const float* a;  // null: there is no such parameter
  const float* others;
  uint32_t unit, count, row;  // row: entries that share a coefficient for kRow
  int sharing;
};

FASTCOMB_HOST_DEVICE inline float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
FASTCOMB_HOST_DEVICE inline uint32_t as_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

// The law's value for a draw of law.bits bits (23 of 32 are used).
FASTCOMB_HOST_DEVICE inline float coefficient(const Law& law, uint32_t draw) {
  if (law.kind == kTable) return law.table[draw];
  if (law.kind == kBernoulli) return draw < law.threshold ? 1.0f : 0.0f;
  // the bits of 2^23 + draw: no conversion, and the fma is exact
  const float scale = law.bits == 16 ? 0x1p-16f : 0x1p-23f;
  const float u = fmaf(as_float(0x4B000000u | draw), scale, (0.5f - 0x1p23f) * scale);
  return law.kind == kUniform ? fmaf(u, law.range, law.low) : u;
}

FASTCOMB_HOST_DEVICE inline float convex(float lam, float a, float b, bool ends) {
  if (ends && lam == 0.0f) return a;
  if (ends && lam == 1.0f) return b;
  return fmaf(lam, b - a, a);
}

struct Drawn {
  uint32_t word[8];
};

// Draws of the entries [first, first + 8), first a multiple of 8.
FASTCOMB_HOST_DEVICE inline Drawn draws(const Mixing& mixing, const Mixed& p, int step, uint64_t index,
                                        uint32_t first) {
  const uint32_t low = (uint32_t)index, high = (uint32_t)(index >> 32);
  const uint32_t key0 = (uint32_t)mixing.seed, key1 = (uint32_t)(mixing.seed >> 32);
  const uint32_t unit = step_unit(p.unit, step);
  const bool narrow = mixing.laws[step].bits == 16;
  Drawn found;
  if (p.sharing == kElement && narrow) {
    const Words w = philox4x32_10(Words{{first >> 3, unit, low, high}}, key0, key1);
    for (int j = 0; j < 8; ++j) found.word[j] = w.w[j >> 1] >> (16 * (j & 1)) & 0xFFFFu;
  } else if (p.sharing == kElement) {
    for (uint32_t half = 0; half < 2; ++half) {
      const Words w = philox4x32_10(Words{{(first >> 2) + half, unit, low, high}}, key0, key1);
      for (int j = 0; j < 4; ++j) found.word[4 * half + j] = w.w[j] >> 9;
    }
  } else {  // one draw for a row, or for all
    uint32_t known = 0xFFFFFFFFu, word = 0;
    for (uint32_t j = 0; j < 8; ++j) {
      const uint32_t e = p.sharing == kRow ? (first + j) / p.row : 0;
      if (e != known) {
        const Words w = philox4x32_10(Words{{narrow ? e >> 3 : e >> 2, unit, low, high}}, key0, key1);
        const uint32_t at = narrow ? e >> 1 & 3 : e & 3;
        const uint32_t one = at == 0 ? w.w[0] : at == 1 ? w.w[1] : at == 2 ? w.w[2] : w.w[3];
        word = narrow ? one >> (16 * (e & 1)) & 0xFFFFu : one >> 9;
        known = e;
      }
      found.word[j] = word;
    }
  }
  return found;
}

struct Eight {
  float value[8];
};

// Entries [first, first + 8) of p; 0 beyond its end.
FASTCOMB_HOST_DEVICE inline Eight entries(const float* p, uint32_t count, uint32_t first) {
  Eight found;
#ifdef __CUDA_ARCH__
  if (first + 8 <= count && ((uintptr_t)(p + first) & 15) == 0) {
    const float4 one = *(const float4*)(p + first), two = *(const float4*)(p + first + 4);
    return Eight{{one.x, one.y, one.z, one.w, two.x, two.y, two.z, two.w}};
  }
#endif
  for (uint32_t j = 0; j < 8; ++j) found.value[j] = first + j < count ? p[first + j] : 0.0f;
  return found;
}

// The same entries of a combination, from those of the first two networks.
FASTCOMB_HOST_DEVICE inline Eight mixed(const Mixing& mixing, const Mixed& p, uint64_t index, uint32_t first,
                                        const Eight& a, const Eight& b) {
  Eight value = a, other = b;
  for (int step = 0; step < mixing.steps; ++step) {
    if (step) other = entries(p.others + (size_t)step * p.count, p.count, first);
    const Drawn drawn = draws(mixing, p, step, index, first);
    const Law& law = mixing.laws[step];
    for (int j = 0; j < 8; ++j)
      value.value[j] = convex(coefficient(law, drawn.word[j]), value.value[j], other.value[j], law.ends);
  }
  return value;
}
FASTCOMB_HOST_DEVICE inline Eight mixed(const Mixing& mixing, const Mixed& p, uint64_t index, uint32_t first) {
  return mixed(mixing, p, index, first, entries(p.a, p.count, first), entries(p.others, p.count, first));
}

}  // namespace fastcomb::cuda
