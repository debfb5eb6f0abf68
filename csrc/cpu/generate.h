// Coefficients drawn, turned into weights and laid out, without leaving registers where the shape allows.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace FASTCOMB_LEVEL {

using fastcomb::Law;
using fastcomb::Packed;
using fastcomb::Source;
using fastcomb::Stream;

// The words of BLOCKS times W counters that share a stream. Counters come as block numbers split over two
// vectors, even lanes and odd lanes, each in the low half of 64 bits; high halves hold garbage along the way,
// since products read the low halves only. The chains advance side by side: one alone waits for its products.
template <int BLOCKS>
FASTCOMB_INLINE void draw(const Stream& s, const L* blocks, U out[][4]) {
  constexpr int chains = 2 * BLOCKS;
  const L m0 = (L){} + fastcomb::kPhiloxM0, m1 = (L){} + fastcomb::kPhiloxM1;
  L c0[chains], c1[chains], c2[chains], c3[chains], p0[chains], p1[chains];
#define FASTCOMB_CHAINS _Pragma("GCC unroll 8") for (int h = 0; h < chains; ++h)
  FASTCOMB_CHAINS {  // first round
    p0[h] = multiply(blocks[h], m0);
    c2[h] = (p0[h] >> 32) ^ s.first2;
    c3[h] = p0[h];
  }
  FASTCOMB_CHAINS {  // second round
    p1[h] = multiply(c2[h], m1);
    c0[h] = (p1[h] >> 32) ^ (s.first1 ^ s.key0[1]);
    c1[h] = p1[h];
    c2[h] = c3[h] ^ (s.second2 ^ s.key1[1]);
  }
  FASTCOMB_CHAINS {  // third round
    p0[h] = multiply(c0[h], m0);
    p1[h] = multiply(c2[h], m1);
    c0[h] = exclusive_or(p1[h] >> 32, c1[h], (L){} + s.key0[2]);
    c1[h] = p1[h];
    c2[h] = (p0[h] >> 32) ^ (s.second3 ^ s.key1[2]);
    c3[h] = p0[h];
  }
#pragma GCC unroll 7
  for (int round = 3; round < 10; ++round) {
    const L key0 = (L){} + s.key0[round], key1 = (L){} + s.key1[round];
    FASTCOMB_CHAINS {
      p0[h] = multiply(c0[h], m0);
      p1[h] = multiply(c2[h], m1);
    }
    FASTCOMB_CHAINS {
      c0[h] = exclusive_or(p1[h] >> 32, c1[h], key0);
      c1[h] = p1[h];
      c2[h] = exclusive_or(p0[h] >> 32, c3[h], key1);
      c3[h] = p0[h];
    }
  }
#undef FASTCOMB_CHAINS
#pragma GCC unroll 4
  for (int b = 0; b < BLOCKS; ++b) {
    const L* word[4] = {c0 + 2 * b, c1 + 2 * b, c2 + 2 * b, c3 + 2 * b};
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w) out[b][w] = (U)((word[w][0] & 0xffffffffu) | (word[w][1] << 32));
  }
}

// Coefficient of each draw: 16 bits, or 23.
template <int KIND, int BITS>
FASTCOMB_INLINE F coefficient(const Law& law, U drawn) {
  if (KIND == fastcomb::kTable) return gather(law.table, drawn);
  if (KIND == fastcomb::kBernoulli) return select((I)(drawn < law.threshold), set1(1), set1(0));
  F u;
  if (BITS == 16) {  // 2^23 + draw as a float, then exactly (draw + 0.5) / 2^16
    u = fma((F)(drawn | 0x4B000000u), set1(0x1p-16f), set1(-(128.0f - 0x1p-17f)));
  } else {
    u = (F)(drawn | 0x3F800000u) - set1(1.0f - 0x1p-24f);
  }
  return KIND == fastcomb::kUnit ? u : fma(u, set1(law.range), set1(law.low));
}

// `other` is b - a, or b with ENDS.
template <bool ENDS>
FASTCOMB_INLINE F mixed(F lam, F a, F other) {
  if (!ENDS) return fma(lam, other, a);
  const F inside = fma(lam, other - a, a);
  return select((I)(lam == 0.0f), a, select((I)(lam == 1.0f), other, inside));
}

template <int KIND, int BITS, bool ENDS>
struct Draw {
  static constexpr int bits = BITS;
  static constexpr int per_block = 128 / BITS;
  static FASTCOMB_INLINE_MEMBER F lam(const Law& law, U drawn) { return coefficient<KIND, BITS>(law, drawn); }
  static FASTCOMB_INLINE_MEMBER F mix(const Law& law, U drawn, F a, F other) {
    if (KIND == fastcomb::kBernoulli) return select((I)(drawn < law.threshold), other, a);
    return mixed<ENDS>(lam(law, drawn), a, other);
  }
  // draw number j of a block
  static FASTCOMB_INLINE_MEMBER U number(const U word[4], int j) {
    if (BITS == 32) return word[j] >> 9;
    return j & 1 ? word[j >> 1] >> 16 : word[j >> 1] & 0xffffu;
  }
};

// Calls f(Draw<...>{}) for a law.
template <class Function>
FASTCOMB_INLINE void with_law(const Law& law, const Function& f) {
  using namespace fastcomb;
  if (law.bits == 16) {
    if (law.kind == kBernoulli) return f(Draw<kBernoulli, 16, true>{});
    if (law.kind == kUnit && !law.ends) return f(Draw<kUnit, 16, false>{});
    if (law.kind == kUniform && !law.ends) return f(Draw<kUniform, 16, false>{});
    if (law.ends) return f(Draw<kTable, 16, true>{});
    return f(Draw<kTable, 16, false>{});
  }
  if (law.kind == kBernoulli) return f(Draw<kBernoulli, 32, true>{});
  if (law.kind == kUnit && !law.ends) return f(Draw<kUnit, 32, false>{});
  if (law.kind == kUniform && !law.ends) return f(Draw<kUniform, 32, false>{});
  if (law.ends) return f(Draw<kTable, 32, true>{});
  return f(Draw<kTable, 32, false>{});
}

// --- linear order -----------------------------------------------------------------------------------

// Blocks so that after draw() the transposed words lie in order: lane 4j+m counts block (W/4)m + j.
FASTCOMB_INLINE void linear_blocks(uint64_t first, L blocks[2]) {
  uint64_t number[2][W / 2];
  for (int l = 0; l < W; ++l) number[l % 2][l / 2] = first + (W / 4) * (l % 4) + l / 4;
  blocks[0] = load_as<L>(number[0]);
  blocks[1] = load_as<L>(number[1]);
}

// word[w][lane] -> words of successive blocks, in order, W * 4 of them.
FASTCOMB_INLINE void store_in_order(const U word[4], uint32_t* out) {
#if defined(FASTCOMB_AVX512)
  const __m512i c0 = (__m512i)word[0], c1 = (__m512i)word[1], c2 = (__m512i)word[2], c3 = (__m512i)word[3];
  const __m512i t0 = _mm512_unpacklo_epi32(c0, c1), t1 = _mm512_unpackhi_epi32(c0, c1);
  const __m512i t2 = _mm512_unpacklo_epi32(c2, c3), t3 = _mm512_unpackhi_epi32(c2, c3);
  _mm512_storeu_si512(out, _mm512_unpacklo_epi64(t0, t2));
  _mm512_storeu_si512(out + 16, _mm512_unpackhi_epi64(t0, t2));
  _mm512_storeu_si512(out + 32, _mm512_unpacklo_epi64(t1, t3));
  _mm512_storeu_si512(out + 48, _mm512_unpackhi_epi64(t1, t3));
#else
  for (int m = 0; m < 4; ++m)
    for (int j = 0; j < W / 4; ++j)
      for (int w = 0; w < 4; ++w) out[(m * (W / 4) + j) * 4 + w] = word[w][4 * j + m];
#endif
}

// Draws of 4W words from block `first` on, in the order of elements.
template <class D>
FASTCOMB_INLINE void draw_in_order(const Stream& s, uint64_t first, uint32_t* draws) {
  L blocks[2];
  linear_blocks(first, blocks);
  U words[1][4];
  draw<1>(s, blocks, words);
  U* word = words[0];
  if (D::bits == 32) {
    for (int w = 0; w < 4; ++w) word[w] >>= 9;
    store_in_order(word, draws);
  } else {
    uint32_t pairs[4 * W];
    store_in_order(word, pairs);
    for (int i = 0; i < 4 * W; ++i) {
      draws[2 * i] = pairs[i] & 0xffff;
      draws[2 * i + 1] = pairs[i] >> 16;
    }
  }
}

// f(position in out, draws, count) for successive vectors of up to W draws of elements [begin, end).
template <class D, class Use>
FASTCOMB_INLINE void for_draws(const Stream& s, int64_t begin, int64_t end, const Use& use) {
  constexpr int chunk = W * D::per_block;
  uint32_t draws[chunk + W];
  memset(draws + chunk, 0, sizeof(uint32_t) * W);
  for (int64_t base = begin - begin % D::per_block; base < end; base += chunk) {
    draw_in_order<D>(s, base / D::per_block, draws);
    for (int64_t e = larger(base, begin); e < smaller(base + chunk, end); e += W)
      use(e, load_as<U>(draws + (e - base)), (int)smaller(W, smaller(base + chunk, end) - e));
  }
}

template <class D>
static void coefficients_of(const Stream& s, const Law& law, int64_t count, float* out) {
  for_draws<D>(s, 0, count, [&](int64_t e, U drawn, int n) __attribute__((always_inline)) {
    store_n(out + e, D::lam(law, drawn), n);
  });
}

static void coefficients(const Stream& s, const Law& law, int64_t count, float* out) {
  with_law(law, [&](auto d) { coefficients_of<decltype(d)>(s, law, count, out); });
}

// How a mixed value is stored: float32, bfloat16, or float32 that holds a bfloat16's value.
template <class T, bool ROUND>
struct Plain {
  static FASTCOMB_INLINE_MEMBER void put(T* p, F v, int n) {
    if (ROUND) v = rounded_to_bf16(v);
    if (n == W) store(p, v);
    else store_n(p, v, n);
  }
};

template <class D, class T, bool ROUND>
static void mix_elements(const Stream& s, const Law& law, const float* a, const float* b, int64_t count, T* out) {
  for_draws<D>(s, 0, count, [&](int64_t e, U drawn, int n) __attribute__((always_inline)) {
    const F va = n == W ? load(a + e) : load_n(a + e, n), vb = n == W ? load(b + e) : load_n(b + e, n);
    Plain<T, ROUND>::put(out + e, D::mix(law, drawn, va, law.ends ? vb : vb - va), n);
  });
}

template <class T, bool ROUND>
static void mix_to(const Source& s, int sharing, const float* a, const float* b, int64_t rows, int64_t inner, T* out) {
  if (sharing == fastcomb::kElement)
    return with_law(*s.law,
                    [&](auto d) { mix_elements<decltype(d), T, ROUND>(s.stream, *s.law, a, b, rows * inner, out); });
  for (int64_t r = 0; r < rows; ++r) {
    const F l = set1(s.lam[sharing == fastcomb::kRow ? r : 0]);
    for (int64_t i = 0; i < inner; i += W) {
      const int64_t e = r * inner + i;
      const int n = (int)smaller(W, inner - i);
      Plain<T, ROUND>::put(out + e, mixed<true>(l, load_n(a + e, n), load_n(b + e, n)), n);
    }
  }
}

static void mix(const Source* s, int64_t steps, int sharing, const float* a, const float* b, int64_t rows,
                int64_t inner, int form, float* scratch, void* out) {
  for (; steps > 1; --steps, ++s, a = scratch, b += rows * inner)
    mix_to<float, false>(*s, sharing, a, b, rows, inner, scratch);
  if (form == fastcomb::kFloat) return mix_to<float, false>(*s, sharing, a, b, rows, inner, (float*)out);
  if (form == fastcomb::kRounded) return mix_to<float, true>(*s, sharing, a, b, rows, inner, (float*)out);
  mix_to<bf16, false>(*s, sharing, a, b, rows, inner, (bf16*)out);
}

// --- panels ------------------------------------------------------------------------------------------

#if defined(FASTCOMB_DOT_BF16)
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif

static void pack(const float* a, const float* b, int64_t outputs, int64_t inner, bool ends, float* packed_a,
                 float* packed_other) {
  const int64_t groups = (outputs + W - 1) / W;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t k = 0; k < inner; ++k)
      for (int l = 0; l < W; ++l) {
        const int64_t o = g * W + l, to = (g * inner + k) * W + l;
        const float va = o < outputs ? a[o * inner + k] : 0, vb = o < outputs ? b[o * inner + k] : 0;
        packed_a[to] = va;
        packed_other[to] = ends ? vb : vb - va;
      }
}

// Where the vector of outputs number g goes: its first row and the distance between rows, in elements.
struct Slot {
  int64_t base, step;
};
FASTCOMB_INLINE Slot slot(const Packed& p, int64_t g) {
  const int64_t groups = (p.outputs + W - 1) / W;
  const int64_t wide = g / 2 * 2 + 1 < groups ? 2 * W : W;
  return {g / 2 * 2 * W * p.rows + g % 2 * W, wide};
}

FASTCOMB_INLINE int64_t pair_base(const Packed& p, int64_t g) { return g / 2 * 2 * W * p.rows + g % 2 * 2 * W; }

#if defined(FASTCOMB_DOT_BF16)
// Two rows of weights as one vector of pairs: (row0[l], row1[l]) for each lane.
FASTCOMB_INLINE void store_pair(void* p, F row0, F row1) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(row1, row0);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, both));
}
#endif

// Rows of float32 in natural order [inner][W] -> their places.
static void lay_out(const Packed& p, int64_t g, const float* natural, void* out) {
  const Slot at = slot(p, g);
#if defined(FASTCOMB_DOT_BF16)
  if (p.dtype == fastcomb::kBfloat16) {
    uint16_t* to = (uint16_t*)out + pair_base(p, g);
    for (int64_t r = 0; r < p.rows; r += 2) {
      const int64_t k0 = p.inverse[r], k1 = p.inverse[r + 1];
      store_pair(to + r * at.step, k0 < 0 ? set1(0) : load(natural + k0 * W),
                 k1 < 0 ? set1(0) : load(natural + k1 * W));
    }
    return;
  }
#endif
  float* to = (float*)out + at.base;
  const bool round = p.dtype == fastcomb::kBfloat16;
  for (int64_t r = 0; r < p.rows; ++r) {
    const int64_t k = p.inverse[r];
    const F v = k < 0 ? set1(0) : load(natural + k * W);
    store(to + r * at.step, round ? rounded_to_bf16(v) : v);
  }
}

// Rows aligned with blocks: every block serves the same inner entries in all lanes. Row k goes to
// to + place[k] * step (place null: k); with PAIRS two rows to one vector of pairs, in natural order.
template <class D, bool PAIRS>
static void generate_aligned(const Source& s, const Packed& p, int64_t g, const float* a, const float* other, void* out,
                             int64_t step, const int32_t* place) {
  const Law& law = *s.law;
  uint64_t number[2][W / 2];
  for (int l = 0; l < W; ++l) number[l % 2][l / 2] = (uint64_t)((p.first + g * W + l) * p.inner) / D::per_block;
  L blocks[4] = {load_as<L>(number[0]), load_as<L>(number[1])};
  const auto lay = [&](const U* word, int64_t k) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int j = 0; j < D::per_block; j += 2) {
      const float* from = a + (k + j) * W;
      const float* delta = other + (k + j) * W;
      const F w0 = D::mix(law, D::number(word, j), load(from), load(delta));
      const F w1 = D::mix(law, D::number(word, j + 1), load(from + W), load(delta + W));
#if defined(FASTCOMB_DOT_BF16)
      if (PAIRS) {
        store_pair((uint16_t*)out + (k + j) * step, w0, w1);
        continue;
      }
#endif
      store((float*)out + (place ? place[k + j] : k + j) * step, w0);
      store((float*)out + (place ? place[k + j + 1] : k + j + 1) * step, w1);
    }
  };
  U words[2][4];
  int64_t k = 0;
  for (; k + 2 * D::per_block <= p.inner; k += 2 * D::per_block) {
    blocks[2] = blocks[0] + 1;
    blocks[3] = blocks[1] + 1;
    draw<2>(s.stream, blocks, words);
    blocks[0] += 2;
    blocks[1] += 2;
    lay(words[0], k);
    lay(words[1], k + D::per_block);
  }
  if (k < p.inner) {
    draw<1>(s.stream, blocks, words);
    lay(words[0], k);
  }
}

// Any other shape: each lane's row in order, then mixed in natural order. `draws` may be `natural`, or
// `natural` be `a`.
template <class D>
static void generate_any(const Source& s, const Packed& p, int64_t g, const float* a, const float* other,
                         uint32_t* draws, float* natural) {
  for (int l = 0; l < W; ++l) {
    const int64_t begin = (p.first + g * W + l) * p.inner;
    if (g * W + l >= p.outputs) {
      for (int64_t k = 0; k < p.inner; ++k) draws[k * W + l] = 0;
      continue;
    }
    for_draws<D>(s.stream, begin, begin + p.inner, [&](int64_t e, U drawn, int n) __attribute__((always_inline)) {
      uint32_t own[W];
      store_as(own, drawn);
      for (int i = 0; i < n; ++i) draws[(e - begin + i) * W + l] = own[i];
    });
  }
  for (int64_t k = 0; k < p.inner; ++k)
    store(natural + k * W, D::mix(*s.law, load_as<U>(draws + k * W), load(a + k * W), load(other + k * W)));
}

template <bool ENDS>
static void generate_shared(const float* lam, const Packed& p, int64_t g, const float* a, const float* other,
                            float* natural) {
  F l = set1(lam[0]);
  if (p.sharing == fastcomb::kRow) l = load_n(lam + p.first + g * W, (int)smaller(W, p.outputs - g * W));
  for (int64_t k = 0; k < p.inner; ++k) store(natural + k * W, mixed<ENDS>(l, load(a + k * W), load(other + k * W)));
}

// Step number `step` of a vector of outputs, in natural order at the start of `scratch`.
static void generate_step(const Source& s, const Packed& p, int64_t g, int64_t step, float* scratch) {
  const int64_t skipped = g * p.inner * W;
  const float* a = step ? scratch : p.a + skipped;
  const float* other = p.others[step] + skipped;
  if (p.sharing != fastcomb::kElement) {
    if (s.law->ends) generate_shared<true>(s.lam, p, g, a, other, scratch);
    else generate_shared<false>(s.lam, p, g, a, other, scratch);
    return;
  }
  with_law(*s.law, [&](auto d) {
    typedef decltype(d) D;
    if (p.inner % D::per_block == 0) generate_aligned<D, false>(s, p, g, a, other, scratch, W, nullptr);
    else generate_any<D>(s, p, g, a, other, (uint32_t*)(step ? scratch + p.inner * W : scratch), scratch);
  });
}

// One step whose blocks lie like the panels: straight to its places. False where they don't.
static bool generate_direct(const Source& s, const Packed& p, int64_t first, int64_t last, void* out) {
  const bool half = p.dtype == fastcomb::kBfloat16;
  if (p.steps > 1 || p.sharing != fastcomb::kElement || p.inner != p.rows) return false;
  if (p.inner % (128 / s.law->bits) || (half && (!kPairs || p.place))) return false;
  with_law(*s.law, [&](auto d) {
    typedef decltype(d) D;
    for (int64_t g = first; g < last; ++g) {
      const Slot at = slot(p, g);
      const float *a = p.a + g * p.inner * W, *other = p.others[0] + g * p.inner * W;
      if (half) generate_aligned<D, true>(s, p, g, a, other, (uint16_t*)out + pair_base(p, g), at.step, nullptr);
      else generate_aligned<D, false>(s, p, g, a, other, (float*)out + at.base, at.step, p.place);
    }
  });
  return true;
}

static void generate(const Source* s, const Packed& p, int64_t first, int64_t last, float* scratch, void* out) {
  if (generate_direct(*s, p, first, last, out)) return;
  for (int64_t g = first; g < last; ++g) {
    for (int64_t step = 0; step < p.steps; ++step) generate_step(s[step], p, g, step, scratch);
    lay_out(p, g, scratch, out);
  }
}

}  // namespace FASTCOMB_LEVEL
