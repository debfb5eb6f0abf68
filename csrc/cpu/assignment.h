// The permutation of largest similarity: shortest augmenting paths after bids, as of Jonker and Volgenant, "A
// shortest augmenting path algorithm for dense and sparse linear assignment problems" (Computing 38, 1987). Every
// row bids for the column that is cheapest for it at present prices, and raises its price until another is as
// cheap; rows that are outbid bid again. Those that come to no end get columns by shortest paths of exchanges.
// Only differences and comparisons of doubles: every level finds the same.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace FASTCOMB_LEVEL {

constexpr int H = W / 2;  // doubles of a vector
typedef double D __attribute__((vector_size(W * 4)));
typedef int64_t N __attribute__((vector_size(W * 4)));
typedef float Few __attribute__((vector_size(W * 2)));

FASTCOMB_INLINE D wide(const float* p) { return __builtin_convertvector(load_as<Few>(p), D); }
FASTCOMB_INLINE D wide(const double* p) { return load_as<D>(p); }
FASTCOMB_INLINE D set1d(double x) { return x - (D){}; }

// The cheapest columns that were shown.
struct Cheapest {
  D first, second, free;  // of each lane: the two smallest, and the smallest of free columns
  N at, free_at;

  FASTCOMB_INLINE_MEMBER Cheapest() : first(set1d(HUGE_VAL)), second(first), free(first), at{}, free_at{} {}

  FASTCOMB_INLINE_MEMBER void show(D price, D taken, N column) {
    const D higher = price > first ? price : first;
    second = higher < second ? higher : second;
    at = price < first ? column : at;
    first = price < first ? price : first;
    price += taken;
    free_at = price < free ? column : free_at;
    free = price < free ? price : free;
  }

  // The column: a free one of those that are equally cheap, and the first of them; its price; the next price.
  FASTCOMB_INLINE_MEMBER int64_t choose(double& price, double& next) const {
    const int lane = lowest(first, at), open = lowest(free, free_at);
    price = first[lane], next = second[lane];
    for (int l = 0; l < H; ++l)
      if (l != lane && first[l] < next) next = first[l];
    return free[open] == price && price < HUGE_VAL ? free_at[open] : at[lane];
  }

 private:
  FASTCOMB_INLINE int lowest(D value, N column) {
    int lane = 0;
    for (int l = 1; l < H; ++l)
      if (value[l] < value[lane] || (value[l] == value[lane] && column[l] < column[lane])) lane = l;
    return lane;
  }
};

template <class T>
static void match_rows(const T* similarity, int64_t n, char* scratch, int64_t* columns) {
  const int64_t pitch = (n + H - 1) / H * H;
  T* cost = (T*)scratch;  // [n][pitch], infinite beyond n
  double* v = (double*)(cost + n * pitch);
  double *distance = v + pitch, *blocked = distance + pitch, *taken = blocked + pitch;  // 0 or infinite
  int64_t *from = (int64_t*)(taken + pitch), *owner = from + pitch, *waiting = owner + pitch, *left = waiting + n;
  N lanes = {};
  for (int l = 0; l < H; ++l) lanes[l] = l;

  for (int64_t j = 0; j < pitch; ++j) {
    v[j] = j < n ? HUGE_VAL : 0.0, blocked[j] = taken[j] = j < n ? 0.0 : HUGE_VAL;
    owner[j] = -1;
  }
  for (int64_t i = 0; i < n; ++i) {
    T* row = cost + i * pitch;
    for (int64_t j = 0; j < n; ++j) row[j] = -similarity[i * n + j];
    for (int64_t j = n; j < pitch; ++j) row[j] = (T)HUGE_VAL;
    for (int64_t j = 0; j < n; ++j) v[j] = row[j] < v[j] ? (double)row[j] : v[j];
    waiting[n - 1 - i] = i;
  }

  int64_t bids = 8 * n, count = 0;
  for (int64_t rows = n; rows;) {
    const int64_t i = waiting[--rows];
    Cheapest seen;
    for (int64_t j = 0; j < pitch; j += H)
      seen.show(wide(cost + i * pitch + j) - load_as<D>(v + j), load_as<D>(taken + j), lanes + j);
    double price, next;
    const int64_t j = seen.choose(price, next), rival = owner[j];
    const double raised = next < HUGE_VAL ? v[j] - (next - price) : v[j];
    if (bids-- <= 0 || (rival >= 0 && !(raised < v[j]))) {
      left[count++] = i;
      continue;
    }
    v[j] = raised, owner[j] = i, taken[j] = HUGE_VAL, columns[i] = j;
    if (rival >= 0) waiting[rows++] = rival;
  }

  int64_t* scanned = waiting;
  for (int64_t r = 0; r < count; ++r) {
    int64_t i = left[r], steps = 0, j;
    double length = 0, shift = 0, next;
    for (int64_t k = 0; k < n; ++k) distance[k] = HUGE_VAL;
    for (;;) {
      Cheapest seen;
      for (int64_t k = 0; k < pitch; k += H) {
        const D open = load_as<D>(blocked + k), old = load_as<D>(distance + k);
        const D now = wide(cost + i * pitch + k) - load_as<D>(v + k) - shift + open;
        const N before = load_as<N>(from + k);
        const N by = now < old ? i - (N){} : before;
        const D least = now < old ? now : old;
        store_as(distance + k, least), store_as(from + k, by);
        seen.show(least + open, load_as<D>(taken + k), lanes + k);
      }
      j = seen.choose(length, next);
      if (owner[j] < 0) break;
      scanned[steps++] = j, blocked[j] = HUGE_VAL;
      i = owner[j];
      shift = (double)cost[i * pitch + j] - v[j] - length;
    }
    for (int64_t s = 0; s < steps; ++s) {
      v[scanned[s]] += distance[scanned[s]] - length;
      blocked[scanned[s]] = 0;
    }
    taken[j] = HUGE_VAL;
    for (i = -1; i != left[r];) {  // every row on the path takes the column it leads to
      i = owner[j] = from[j];
      const int64_t given = columns[i];
      columns[i] = j, j = given;
    }
  }
}

static void match(const fastcomb::Assignment& a) {
  const int64_t each = a.n * a.n;
  for (int64_t m = 0; m < a.count; ++m) {
    int64_t* columns = a.columns + m * a.n;
    if (a.wide) match_rows((const double*)a.similarity + m * each, a.n, a.scratch, columns);
    else match_rows((const float*)a.similarity + m * each, a.n, a.scratch, columns);
  }
}

}  // namespace FASTCOMB_LEVEL
