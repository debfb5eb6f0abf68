// Vectors of one instruction level. The level is chosen by the macros FASTCOMB_AVX512, FASTCOMB_AVX2 (else
// portable) and FASTCOMB_DOT_BF16 of the file that includes this; GCC's and Clang's vector types give
// arithmetic on all of them.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(FASTCOMB_AVX512) || defined(FASTCOMB_AVX2)
#include <immintrin.h>
#endif

namespace FASTCOMB_LEVEL {

#if defined(FASTCOMB_AVX512)
constexpr int W = 16;
#elif defined(FASTCOMB_AVX2)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float F __attribute__((vector_size(W * 4)));
typedef int32_t I __attribute__((vector_size(W * 4)));
typedef uint32_t U __attribute__((vector_size(W * 4)));
typedef uint64_t L __attribute__((vector_size(W * 4)));
struct bf16 {
  uint16_t bits;
};

#define FASTCOMB_INLINE static inline __attribute__((always_inline))
#define FASTCOMB_INLINE_MEMBER inline __attribute__((always_inline))

FASTCOMB_INLINE F set1(float x) { return x - (F){}; }
FASTCOMB_INLINE U set1u(uint32_t x) { return x - (U){}; }
FASTCOMB_INLINE float at(F x, int lane) { return x[lane]; }

template <class V>
FASTCOMB_INLINE V load_as(const void* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
FASTCOMB_INLINE void store_as(void* p, V v) {
  memcpy(p, &v, sizeof v);
}

FASTCOMB_INLINE F select(I mask, F yes, F no) { return mask ? yes : no; }

// --- what needs instructions of its own ---
#if defined(FASTCOMB_AVX512)
FASTCOMB_INLINE F fma(F x, F y, F z) { return _mm512_fmadd_ps(x, y, z); }
FASTCOMB_INLINE F maximum(F x, F y) { return _mm512_max_ps(x, y); }  // y where x is NaN
FASTCOMB_INLINE F minimum(F x, F y) { return _mm512_min_ps(x, y); }
FASTCOMB_INLINE F root(F x) { return _mm512_sqrt_ps(x); }
FASTCOMB_INLINE F nearest(F x) { return _mm512_roundscale_ps(x, 8); }
FASTCOMB_INLINE F to_float(I x) { return _mm512_cvtepi32_ps((__m512i)x); }
FASTCOMB_INLINE I to_int(F x) { return (I)_mm512_cvttps_epi32(x); }
FASTCOMB_INLINE L multiply(L x, L y) { return (L)_mm512_mul_epu32((__m512i)x, (__m512i)y); }
FASTCOMB_INLINE L exclusive_or(L x, L y, L z) {
  return (L)_mm512_ternarylogic_epi64((__m512i)x, (__m512i)y, (__m512i)z, 0x96);
}
FASTCOMB_INLINE F gather(const float* table, U index) { return _mm512_i32gather_ps((__m512i)index, table, 4); }
FASTCOMB_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
FASTCOMB_INLINE F load(const bf16* p) { return (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_as<__m256i>(p)), 16); }
FASTCOMB_INLINE void store(float* p, F v) { _mm512_storeu_ps(p, v); }
FASTCOMB_INLINE __m256i narrow(F v) {
  const __m512i x = (__m512i)v;
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), nan, _mm512_set1_epi32(0x7fc0)));
}
FASTCOMB_INLINE void store(bf16* p, F v) { _mm256_storeu_si256((__m256i*)p, narrow(v)); }
FASTCOMB_INLINE F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
FASTCOMB_INLINE F load_n(const bf16* p, int n) {
  return (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p)), 16);
}
FASTCOMB_INLINE void store_n(float* p, F v, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v); }
FASTCOMB_INLINE void store_n(bf16* p, F v, int n) {
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), narrow(v));
}
#else
FASTCOMB_INLINE F maximum(F x, F y) { return select((I)(x > y), x, y); }
FASTCOMB_INLINE F minimum(F x, F y) { return select((I)(x < y), x, y); }
FASTCOMB_INLINE L exclusive_or(L x, L y, L z) { return x ^ y ^ z; }
#if defined(FASTCOMB_AVX2)
FASTCOMB_INLINE F fma(F x, F y, F z) { return _mm256_fmadd_ps(x, y, z); }
FASTCOMB_INLINE F root(F x) { return _mm256_sqrt_ps(x); }
FASTCOMB_INLINE F nearest(F x) { return _mm256_round_ps(x, 8); }
FASTCOMB_INLINE F to_float(I x) { return _mm256_cvtepi32_ps((__m256i)x); }
FASTCOMB_INLINE I to_int(F x) { return (I)_mm256_cvttps_epi32(x); }
FASTCOMB_INLINE L multiply(L x, L y) { return (L)_mm256_mul_epu32((__m256i)x, (__m256i)y); }
FASTCOMB_INLINE F gather(const float* table, U index) { return _mm256_i32gather_ps(table, (__m256i)index, 4); }
#else
FASTCOMB_INLINE F fma(F x, F y, F z) {
  F r = {};
  for (int l = 0; l < W; ++l) r[l] = fmaf(x[l], y[l], z[l]);  // exact on every processor
  return r;
}
FASTCOMB_INLINE F root(F x) {
  F r = {};
  for (int l = 0; l < W; ++l) r[l] = sqrtf(x[l]);
  return r;
}
FASTCOMB_INLINE F to_float(I x) { return __builtin_convertvector(x, F); }
FASTCOMB_INLINE I to_int(F x) { return __builtin_convertvector(x, I); }
FASTCOMB_INLINE F nearest(F x) {
  const F big = set1(12582912.0f);  // 1.5 * 2^23: the sum has no room for a fraction; for |x| < 2^22
  return (x + big) - big;
}
FASTCOMB_INLINE L multiply(L x, L y) { return (x & 0xffffffffu) * (y & 0xffffffffu); }
FASTCOMB_INLINE F gather(const float* table, U index) {
  F r = {};
  for (int l = 0; l < W; ++l) r[l] = table[index[l]];
  return r;
}
#endif
typedef uint16_t Narrow __attribute__((vector_size(W * 2)));
FASTCOMB_INLINE F load(const float* p) { return load_as<F>(p); }
FASTCOMB_INLINE F load(const bf16* p) { return (F)(__builtin_convertvector(load_as<Narrow>(p), U) << 16); }
FASTCOMB_INLINE void store(float* p, F v) { memcpy(p, &v, sizeof v); }
FASTCOMB_INLINE void store(bf16* p, F v) {
  const U x = (U)v;
  const U up = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;
  const U bits = (U)select((I)(v == v), (F)up, (F)set1u(0x7fc0));
  const Narrow half = __builtin_convertvector(bits, Narrow);
  memcpy(p, &half, sizeof half);
}
template <class T>
FASTCOMB_INLINE F load_n(const T* p, int n) {
  T own[W] = {};
  memcpy(own, p, n * sizeof(T));
  return load(own);
}
template <class T>
FASTCOMB_INLINE void store_n(T* p, F v, int n) {
  T own[W];
  store(own, v);
  memcpy(p, own, n * sizeof(T));
}
#endif

// Stores of activations, which may take subnormal bfloat16 numbers for zero.
template <class T>
FASTCOMB_INLINE void keep(T* p, F v) {
  store(p, v);
}
template <class T>
FASTCOMB_INLINE void keep_n(T* p, F v, int n) {
  store_n(p, v, n);
}
#if defined(FASTCOMB_DOT_BF16)
FASTCOMB_INLINE void keep(bf16* p, F v) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(v)); }
FASTCOMB_INLINE void keep_n(bf16* p, F v, int n) {
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)_mm512_cvtneps_pbh(v));
}
#endif

FASTCOMB_INLINE F rounded_to_bf16(F v) {
  const U x = (U)v;
  return (F)((x + 0x7fffu + ((x >> 16) & 1u)) & 0xffff0000u);  // finite values
}
FASTCOMB_INLINE float widen(float x) { return x; }
FASTCOMB_INLINE float widen(bf16 x) {
  const uint32_t bits = (uint32_t)x.bits << 16;
  return load_as<float>(&bits);
}
FASTCOMB_INLINE void assign(float* p, float x) { *p = x; }
FASTCOMB_INLINE void assign(bf16* p, float x) { store_n(p, set1(x), 1); }

FASTCOMB_INLINE float sum_lanes(F v) {
  float s = 0;
  for (int l = 0; l < W; ++l) s += v[l];
  return s;
}
FASTCOMB_INLINE float max_lanes(F v) {
  float m = v[0];
  for (int l = 1; l < W; ++l) m = v[l] > m ? v[l] : m;
  return m;
}
FASTCOMB_INLINE int64_t smaller(int64_t x, int64_t y) { return x < y ? x : y; }
FASTCOMB_INLINE int64_t larger(int64_t x, int64_t y) { return x > y ? x : y; }

// Rows [W][W] transposed in place: blocks off the diagonal change places, for sizes 1, 2, 4, ...
#if defined(FASTCOMB_AVX512)
FASTCOMB_INLINE void transpose_lanes(F row[W]) {
#pragma GCC unroll 4
  for (int size = 1; size < W; size *= 2) {
    U low = {}, high = {};
    for (int l = 0; l < W; ++l) {
      low[l] = l & size ? W + l - size : l;
      high[l] = l & size ? W + l : l + size;
    }
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) {
      if (r & size) continue;
      const F x = row[r], y = row[r + size];
      row[r] = _mm512_permutex2var_ps(x, (__m512i)low, y);
      row[r + size] = _mm512_permutex2var_ps(x, (__m512i)high, y);
    }
  }
}
#else
FASTCOMB_INLINE void transpose_lanes(F row[W]) {
  float entries[W][W];
  for (int r = 0; r < W; ++r)
    for (int l = 0; l < W; ++l) entries[l][r] = row[r][l];
  memcpy(row, entries, sizeof entries);
}
#endif

}  // namespace FASTCOMB_LEVEL
