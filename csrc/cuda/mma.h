// Compute types: how a weight is stored, and which matrix instruction multiplies it.
#pragma once

#include "draws.h"

namespace fastcomb::cuda {

// The lanes of a warp that this code stands for: its own on a device, all of them on the host, where the same
// code is tested.
#ifdef __CUDA_ARCH__
constexpr int kLanes = 1;
FASTCOMB_HOST_DEVICE inline int lane_of(int) { return threadIdx.x & 31; }
#else
constexpr int kLanes = 32;
FASTCOMB_HOST_DEVICE inline int lane_of(int l) { return l; }
#endif

template <class T>
struct Lane {
  T of[kLanes];
  FASTCOMB_HOST_DEVICE T& operator[](int l) { return of[l]; }
  FASTCOMB_HOST_DEVICE const T& operator[](int l) const { return of[l]; }
};

struct alignas(16) FragmentA {  // registers of a lane: of the left operand
  uint32_t r[4];
};
struct alignas(8) FragmentB {  // of the right operand
  uint32_t r[2];
};
struct Accumulator {  // rows lane / 4 (two) and lane / 4 + 8 (two), columns 2 · (lane % 4) and the next
  float v[4];
};

// What a lane has of either of its rows.
struct Rows {
  float v[2];
};

FASTCOMB_HOST_DEVICE inline Lane<Rows> shuffled(const Lane<Rows>& x, int mask) {
  Lane<Rows> found;
#ifdef __CUDA_ARCH__
  for (int h = 0; h < 2; ++h) found[0].v[h] = __shfl_xor_sync(0xFFFFFFFFu, x[0].v[h], mask);
#else
  for (int l = 0; l < kLanes; ++l) found[l] = x[l ^ mask];
#endif
  return found;
}

FASTCOMB_HOST_DEVICE inline uint32_t bfloat16_bits(float x) {
  const uint32_t bits = as_bits(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return bits >> 16 | 0x40u;  // NaN stays one
  return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
}
FASTCOMB_HOST_DEVICE inline float bfloat16_value(uint32_t bits) { return as_float(bits << 16); }

FASTCOMB_HOST_DEVICE inline uint32_t float16_bits(float x) {
#ifdef __CUDA_ARCH__
  uint16_t found;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(found) : "f"(x));
  return found;
#else
  const uint32_t bits = as_bits(x), sign = bits >> 16 & 0x8000u;
  const float size = as_float(bits & 0x7FFFFFFFu);
  if (size != size) return sign | 0x7E00u;
  if (size >= 65520.0f) return sign | 0x7C00u;
  // adding a power of two leaves as many places as the result has, rounded to even
  int exponent = (int)(as_bits(size) >> 23) - 127;
  if (exponent < -14) exponent = -14;
  const float grid = as_float((uint32_t)(exponent + 13 + 127) << 23);
  const float rounded = (size + grid) - grid;
  if (rounded < 0x1p-14f) return sign | (uint32_t)(rounded * 0x1p24f);
  return sign | ((as_bits(rounded) - (112u << 23)) >> 13);
#endif
}
FASTCOMB_HOST_DEVICE inline float float16_value(uint32_t bits) {
#ifdef __CUDA_ARCH__
  float found;
  asm("cvt.f32.f16 %0, %1;" : "=f"(found) : "h"((uint16_t)bits));
  return found;
#else
  const uint32_t exponent = bits >> 10 & 31u, fraction = bits & 1023u;
  float size = exponent == 31 ? (fraction ? NAN : INFINITY)
               : exponent     ? as_float((exponent + 112u) << 23 | fraction << 13)
                              : fraction * 0x1p-24f;
  return bits & 0x8000u ? -size : size;
#endif
}

#ifndef __CUDA_ARCH__
// sums += left · right for a step of K: the operands as matrices, from where each lane holds its entries
// (PTX ISA, "Warp Level Matrix Instructions").
template <int K, class Left, class Right>
inline void multiply_on_host(Lane<Accumulator>& sums, const Left& left, const Right& right) {
  for (int l = 0; l < 32; ++l)
    for (int v = 0; v < 4; ++v) {
      const int row = l / 4 + v / 2 * 8, column = l % 4 * 2 + v % 2;
      for (int k = 0; k < K; ++k) sums[l].v[v] = fmaf(left(row, k), right(k, column), sums[l].v[v]);
    }
}
#endif

// FragmentB entries in a register; a step of 16.
struct Bfloat16 {
  static constexpr int kStep = 16, kBytes = 2;
  using Stored = uint16_t;
  FASTCOMB_HOST_DEVICE static uint32_t bits(float x) { return bfloat16_bits(x); }
  FASTCOMB_HOST_DEVICE static float value(uint32_t bits) { return bfloat16_value(bits); }
#ifdef __CUDA_ARCH__
  __device__ static void multiply(Lane<Accumulator>& c, const Lane<FragmentA>& a, const Lane<FragmentB>& b) {
    float* v = c[0].v;
    const uint32_t *x = a[0].r, *y = b[0].r;
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(v[0]), "+f"(v[1]), "+f"(v[2]), "+f"(v[3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
  }
#endif
};

struct Float16 {
  static constexpr int kStep = 16, kBytes = 2;
  using Stored = uint16_t;
  FASTCOMB_HOST_DEVICE static uint32_t bits(float x) { return float16_bits(x); }
  FASTCOMB_HOST_DEVICE static float value(uint32_t bits) { return float16_value(bits); }
#ifdef __CUDA_ARCH__
  __device__ static void multiply(Lane<Accumulator>& c, const Lane<FragmentA>& a, const Lane<FragmentB>& b) {
    float* v = c[0].v;
    const uint32_t *x = a[0].r, *y = b[0].r;
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(v[0]), "+f"(v[1]), "+f"(v[2]), "+f"(v[3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
  }
#endif
};

// One entry in a register; a step of 8, whose columns 2j and 2j + 1 stand at the instruction's j and j + 4, as
// the sums of the layer before lie. Three products of TF32 (11 bits): of the leading parts, and of each leading
// part with what it leaves of the other.
struct Float32 {
  static constexpr int kStep = 8, kBytes = 4;
  using Stored = uint32_t;
  FASTCOMB_HOST_DEVICE static uint32_t bits(float x) { return as_bits(x); }
  FASTCOMB_HOST_DEVICE static float value(uint32_t bits) { return as_float(bits); }
#ifdef __CUDA_ARCH__
  __device__ static uint32_t leading(float x) {
    uint32_t found;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(found) : "f"(x));
    return found;
  }
  __device__ static void once(float* v, const uint32_t* x, const uint32_t* y) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(v[0]), "+f"(v[1]), "+f"(v[2]), "+f"(v[3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
  }
  __device__ static void multiply(Lane<Accumulator>& c, const Lane<FragmentA>& a, const Lane<FragmentB>& b) {
    uint32_t x[4], xs[4], y[2], ys[2];
    for (int i = 0; i < 4; ++i) {
      x[i] = leading(as_float(a[0].r[i]));
      xs[i] = leading(as_float(a[0].r[i]) - as_float(x[i]));
    }
    for (int i = 0; i < 2; ++i) {
      y[i] = leading(as_float(b[0].r[i]));
      ys[i] = leading(as_float(b[0].r[i]) - as_float(y[i]));
    }
    // the instruction truncates where it adds to its sums, so a step's are made apart and added as floats
    float step[4] = {0, 0, 0, 0};
    once(step, xs, y);
    once(step, x, ys);
    once(step, x, y);
    for (int i = 0; i < 4; ++i) c[0].v[i] += step[i];
  }
#endif
};

// Where entry (o, i) of a weight lies, in entries: lanes side by side, so that each reads its two registers of
// a step and eight outputs at once.
template <class Type>
FASTCOMB_HOST_DEVICE inline uint32_t place(uint32_t o, uint32_t i, uint32_t tiles) {
  const uint32_t step = i / Type::kStep, tile = o / 8, lane = o % 8 * 4 + i % 8 / 2;
  const uint32_t at = ((step * tiles + tile) * 32 + lane) * 2;
  return Type::kStep == 16 ? (at + i % 16 / 8) * 2 + i % 2 : at + i % 2;
}

template <class Type>
FASTCOMB_HOST_DEVICE inline void multiply(Lane<Accumulator>& c, const Lane<FragmentA>& a, const Lane<FragmentB>& b) {
#ifdef __CUDA_ARCH__
  Type::multiply(c, a, b);
#else
  if (Type::kStep == 16)
    multiply_on_host<16>(
        c,
        [&](int row, int k) {
          const uint32_t r = a[row % 8 * 4 + k % 8 / 2].r[k / 8 * 2 + row / 8];
          return Type::value(k % 2 ? r >> 16 : r & 0xFFFFu);
        },
        [&](int k, int column) {
          const uint32_t r = b[column * 4 + k % 8 / 2].r[k / 8];
          return Type::value(k % 2 ? r >> 16 : r & 0xFFFFu);
        });
  else
    multiply_on_host<8>(
        c, [&](int row, int k) { return as_float(a[row % 8 * 4 + k % 4].r[k / 4 * 2 + row / 8]); },
        [&](int k, int column) { return as_float(b[column * 4 + k % 4].r[k / 4]); });
#endif
}

// Accumulator of one or two tiles of eight columns as the left operand of the next layer's step.
template <class Type>
FASTCOMB_HOST_DEVICE inline FragmentA packed(const float* first, const float* second) {
  if (Type::kStep == 8) return FragmentA{{as_bits(first[0]), as_bits(first[2]), as_bits(first[1]), as_bits(first[3])}};
  return FragmentA{
      {Type::bits(first[0]) | Type::bits(first[1]) << 16, Type::bits(first[2]) | Type::bits(first[3]) << 16,
       Type::bits(second[0]) | Type::bits(second[1]) << 16, Type::bits(second[2]) | Type::bits(second[3]) << 16}};
}
// The sums back from there: those of tile ``which`` of the step.
template <class Type>
FASTCOMB_HOST_DEVICE inline Accumulator unpacked(const FragmentA& x, int which) {
  if (Type::kStep == 8) return Accumulator{{as_float(x.r[0]), as_float(x.r[2]), as_float(x.r[1]), as_float(x.r[3])}};
  const uint32_t one = which ? x.r[2] : x.r[0], two = which ? x.r[3] : x.r[1];
  return Accumulator{
      {Type::value(one & 0xFFFFu), Type::value(one >> 16), Type::value(two & 0xFFFFu), Type::value(two >> 16)}};
}

}  // namespace fastcomb::cuda
