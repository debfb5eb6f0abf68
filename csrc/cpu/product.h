// Products of two computed matrices, and computed matrices laid out as weights: both end in the tiles of matmul.h.
#pragma once

#include "elementwise.h"
#include "generate.h"
#include "matmul.h"

namespace FASTCOMB_LEVEL {

using fastcomb::Arrange;
using fastcomb::Product;

// A vector of columns: entry k of column l is x[k * along + l * across]; row k goes to `to + k * step`, with
// anything in the lanes from n on.
template <class T>
static void gather_columns(const T* x, int64_t inner, int64_t along, int64_t across, int n, float* to, int64_t step) {
  if (along != 1 || across == 1) {
    for (int64_t k = 0; k < inner; ++k) store(to + k * step, take(x + k * along, across, n));
    return;
  }
  for (int64_t k = 0; k < inner; k += W) {
    const int some = (int)smaller(W, inner - k);
    F block[W];
    for (int l = 0; l < W; ++l) block[l] = take(x + (l < n ? l : 0) * across + k, 1, some);
    transpose_lanes(block);
    for (int i = 0; i < some; ++i) store(to + (k + i) * step, block[i]);
  }
}

// Up to two vectors of columns [inner][vectors * W], as the tiles read weights.
template <class T>
static void gather_panel(const T* x, int64_t inner, int64_t along, int64_t across, int columns, float* panel) {
  const int vectors = columns > W ? 2 : 1;
  for (int v = 0; v < vectors; ++v)
    gather_columns(x + v * W * across, inner, along, across, (int)smaller(W, columns - v * W), panel + v * W,
                   (int64_t)vectors * W);
}

// out [rows, columns] = x [rows, inner] × panel, for up to two vectors of columns. What is no float32, or has no
// neighbours side by side, goes through scratch of kTile * (inner + 2 * W) floats.
template <class X, class Out>
static void times_panel(const X* x, int64_t x_row, int64_t x_inner, int64_t rows, int64_t inner, const float* panel,
                        int columns, Out* out, int64_t out_row, float* scratch) {
  static constexpr TileTable<float> table;
  constexpr bool whole = sizeof(Out) == sizeof(float);
  const int64_t whole_run[] = {0};
  Matmul c{};
  c.run = inner, c.segments = 1, c.segment = whole_run;
  const int vectors = columns > W ? 2 : 1;
  const bool direct = sizeof(X) == sizeof(float) && x_inner == 1;
  float* result = scratch + kTile * inner;
  const Tile t{direct ? x_row : inner, whole ? out_row : 2 * W, 0, nullptr, nullptr, columns, false, false};
  const int64_t tiles = (rows + kTile - 1) / kTile;
  for (int64_t i = 0, r = 0; i < tiles; ++i) {
    const int64_t count = rows / tiles + (i < rows % tiles);
    const X* from = x + r * x_row;
    if (!direct)
      for (int64_t row = 0; row < count; ++row)
        for (int64_t k = 0; k < inner; k += W) {
          const int n = (int)smaller(W, inner - k);
          store_n(scratch + row * inner + k, take(from + row * x_row + k * x_inner, x_inner, n), n);
        }
    Out* to = out + r * out_row;
    const float* given = direct ? (const float*)from : scratch;
    table.of[count][vectors](c, t, given, panel, whole ? (float*)to : result, nullptr);
    if (!whole)
      for (int64_t row = 0; row < count; ++row)
        for (int v = 0; v < columns; v += W) {
          const int n = (int)smaller(W, columns - v);
          put(to + row * out_row + v, 1, take(result + row * 2 * W + v, 1, n), n);
        }
    r += count;
  }
}

template <class T>
static void product_as(const Product& p, float* scratch) {
  float *panel = scratch, *rest = scratch + p.inner * 2 * W;
  for (int64_t first = 0; first < p.columns; first += 2 * W) {
    const int columns = (int)smaller(2 * W, p.columns - first);
    const T* held = nullptr;
    const int64_t* n = p.batch;
    for (int64_t i0 = 0; i0 < n[0]; ++i0)
      for (int64_t i1 = 0; i1 < n[1]; ++i1)
        for (int64_t i2 = 0; i2 < n[2]; ++i2)
          for (int64_t i3 = 0; i3 < n[3]; ++i3) {
            const auto at = [&](const int64_t* s) { return i0 * s[0] + i1 * s[1] + i2 * s[2] + i3 * s[3]; };
            const T* y = (const T*)p.y + at(p.y_batch) + first * p.y_column;
            if (y != held) gather_panel(y, p.inner, p.y_inner, p.y_column, columns, panel);
            held = y;
            times_panel((const T*)p.x + at(p.x_batch), p.x_row, p.x_inner, p.rows, p.inner, panel, columns,
                        (T*)p.out + at(p.out_batch) + first, p.out_row, rest);
          }
  }
}

template <class T>
static void arrange_as(const Arrange& a, bool round, float* scratch) {
  const int64_t rows = a.segments * a.run;
  const Packed like{a.outputs, rows, 0, rows, 0, nullptr, nullptr, nullptr, nullptr, 0, 0, 0};
  for (int64_t g = 0; g * W < a.outputs; ++g) {
    const int n = (int)smaller(W, a.outputs - g * W);
    for (int64_t s = 0; s < a.segments; ++s) {
      float* to = scratch + s * a.run * W;
      const T* from = (const T*)a.x + a.segment[s] + g * W * a.output_stride;
      gather_columns(from, a.valid, a.run_stride, a.output_stride, n, to, W);
      for (int64_t k = a.valid; k < a.run; ++k) store(to + k * W, set1(0));
    }
    const Slot at = slot(like, g);
#if defined(FASTCOMB_DOT_BF16)
    if (round) {
      uint16_t* to = (uint16_t*)a.out + pair_base(like, g);
      for (int64_t r = 0; r < rows; r += 2)
        store_pair(to + r * at.step, load(scratch + r * W), load(scratch + (r + 1) * W));
      continue;
    }
#endif
    float* to = (float*)a.out + at.base;
    for (int64_t r = 0; r < rows; ++r) {
      const F v = load(scratch + r * W);
      store(to + r * at.step, round ? rounded_to_bf16(v) : v);
    }
  }
}

static void product(const Product& p, int dtype, float* scratch) {
  dtype == fastcomb::kFloat32 ? product_as<float>(p, scratch) : product_as<bf16>(p, scratch);
}
static void arrange(const Arrange& a, int dtype, float* scratch) {
  const bool round = dtype == fastcomb::kBfloat16;
  a.wide || !round ? arrange_as<float>(a, round, scratch) : arrange_as<bf16>(a, round, scratch);
}

}  // namespace FASTCOMB_LEVEL
