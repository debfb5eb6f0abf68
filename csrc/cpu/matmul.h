// Matrix products and convolutions: tiles of rows times one or two vectors of outputs, in registers.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace FASTCOMB_LEVEL {

using fastcomb::Matmul;

#if defined(FASTCOMB_AVX512)
constexpr int kTile = 14;  // 28 accumulators of 32 registers
#elif defined(FASTCOMB_AVX2)
constexpr int kTile = 6;
#else
constexpr int kTile = 5;
#endif

FASTCOMB_INLINE F broadcast(const float* p) { return set1(*p); }
FASTCOMB_INLINE F broadcast(const bf16* p) { return set1(widen(*p)); }
#if defined(FASTCOMB_AVX512) || defined(FASTCOMB_AVX2)
FASTCOMB_INLINE F multiply_add(F x, F y, F z) { return fma(x, y, z); }
#else
FASTCOMB_INLINE F multiply_add(F x, F y, F z) { return x * y + z; }
#endif

// One product step of a type: float32 one inner entry at a time, pairs of bfloat16 two.
template <class T>
struct Step {
  static constexpr int size = 1;
  typedef float Weight;
  static FASTCOMB_INLINE_MEMBER F weight(const float* w) { return load(w); }
  static FASTCOMB_INLINE_MEMBER F input(const T* x) { return broadcast(x); }
  static FASTCOMB_INLINE_MEMBER F product(F acc, F x, F w) { return multiply_add(x, w, acc); }
};
#if defined(FASTCOMB_DOT_BF16)
template <>
struct Step<bf16> {
  static constexpr int size = 2;
  typedef bf16 Weight;
  static FASTCOMB_INLINE_MEMBER F weight(const bf16* w) { return load_as<F>(w); }
  static FASTCOMB_INLINE_MEMBER F input(const bf16* x) { return (F)_mm512_set1_epi32(load_as<int32_t>(x)); }
  static FASTCOMB_INLINE_MEMBER F product(F acc, F x, F w) { return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x); }
};
#endif

struct Tile {
  int64_t in_row, out_row, res_row;
  const float* scale;
  const float* shift;
  int outputs;  // of this panel, up to 2W
  bool relu, out_float;
};

template <class T, int ROWS, int VECTORS>
static void tile(const Matmul& c, const Tile& t, const T* in, const typename Step<T>::Weight* w, T* out,
                 const T* residual) {
  constexpr int size = Step<T>::size, width = VECTORS * W * size;
  F acc[ROWS][VECTORS] = {};
  // the next tile's rows follow: one line a step fetches them, as a step uses less than a line of each
  const char* ahead = (const char*)(in + ROWS * t.in_row);
  for (int64_t s = 0; s < c.segments; ++s) {
    const T* x[(ROWS + 2) / 3];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r += 3) x[r / 3] = in + c.segment[s] + r * t.in_row;
    const int64_t row = t.in_row;
#pragma GCC unroll 2
    for (int64_t k = 0; k < c.run; k += size) {
      F weight[VECTORS];
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; ++v) weight[v] = Step<T>::weight(w + v * W * size);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const F value = Step<T>::input(x[r / 3] + r % 3 * row);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) acc[r][v] = Step<T>::product(acc[r][v], value, weight[v]);
      }
      __builtin_prefetch(ahead);
      ahead += 64;
      w += width;
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; r += 3) x[r / 3] += size;
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < VECTORS; ++v) {
    const int n = (int)smaller(W, t.outputs - v * W);
    const bool full = n == W;
    F scale = set1(1), shift = set1(0);
    if (t.scale) scale = full ? load(t.scale + v * W) : load_n(t.scale + v * W, n);
    if (t.shift) shift = full ? load(t.shift + v * W) : load_n(t.shift + v * W, n);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      F value = t.scale ? multiply_add(acc[r][v], scale, shift) : acc[r][v] + shift;
      if (residual) {
        const T* from = residual + r * t.res_row + v * W;
        value = value + (full ? load(from) : load_n(from, n));
      }
      if (t.relu) value = maximum(set1(0), value);  // a NaN stays
      if (t.out_float) {
        float* to = (float*)out + r * t.out_row + v * W;
        if (full) store(to, value);
        else store_n(to, value, n);
      } else {
        T* to = out + r * t.out_row + v * W;
        if (full) keep(to, value);
        else keep_n(to, value, n);
      }
    }
  }
}

template <class T>
struct TileTable {
  typedef void (*Function)(const Matmul&, const Tile&, const T*, const typename Step<T>::Weight*, T*, const T*);
  Function of[kTile + 1][3];
  template <int ROWS>
  constexpr void fill() {
    if constexpr (ROWS > 0) {
      of[ROWS][1] = tile<T, ROWS, 1>;
      of[ROWS][2] = tile<T, ROWS, 2>;
      fill<ROWS - 1>();
    }
  }
  constexpr TileTable() : of{} { fill<kTile>(); }
};

template <class T>
static void matmul_as(const Matmul& c) {
  static constexpr TileTable<T> table;
  const typename Step<T>::Weight* weights = (const typename Step<T>::Weight*)c.weights;
  const int64_t groups = (c.outputs + W - 1) / W, inner = c.segments * c.run;
  const int64_t tiles = (c.rows + kTile - 1) / kTile;
  const int64_t small = c.rows / larger(tiles, 1), more = c.rows % larger(tiles, 1);  // rows spread evenly
  for (int64_t g = 0; g < groups; g += 2) {
    const int vectors = g + 1 < groups ? 2 : 1;
    const auto* w = weights + g * W * inner;
    const int64_t o = g * W;
    const Tile t{c.in_row,
                 c.out_row,
                 c.res_row,
                 c.scale ? c.scale + o : nullptr,
                 c.shift ? c.shift + o : nullptr,
                 (int)smaller(vectors * W, c.outputs - o),
                 c.relu,
                 c.out_float};
    for (int64_t n = 0; n < c.batch; ++n)
      for (int64_t line = 0; line < c.lines; ++line) {
        const T* in = (const T*)c.x + n * c.in_batch + line * c.in_line;
        const int64_t to = n * c.out_batch + line * c.out_line + o;
        const T* residual = c.residual ? (const T*)c.residual + n * c.res_batch + line * c.res_line + o : nullptr;
        int64_t r = 0;
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t count = small + (i < more);
          T* out = c.out_float ? (T*)((float*)c.out + to + r * c.out_row) : (T*)c.out + to + r * c.out_row;
          table.of[count][vectors](c, t, in + r * c.in_row, w, out, residual ? residual + r * c.res_row : nullptr);
          r += count;
        }
      }
  }
}

static void matmul(const Matmul& c, int dtype) {
  if (dtype == fastcomb::kFloat32) matmul_as<float>(c);
  else matmul_as<bf16>(c);
}

}  // namespace FASTCOMB_LEVEL
