// What the rest of the engine sees of the kernels: plain structs and one table of functions for each
// instruction level.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../law.h"
#include "../operations.h"

namespace fastcomb {

// Bytes of an element; static, so that every instruction level has its own.
static constexpr int64_t item_size(int dtype) { return dtype == kFloat32 ? 4 : 2; }

// Floats that a product needs for each inner entry: two vectors of columns, and a tile's rows.
constexpr int64_t kPanel = 64;
// Queries that attention scores at a time.
constexpr int64_t kQueries = 128;
inline int64_t attention_scratch(const Attention& a) {
  return kQueries * (a.keys + a.width) + (a.keys + a.width + kPanel) * kPanel;
}

// Where the coefficients of one step towards a network come from.
struct Source {
  Stream stream;  // drawn for every entry
  const Law* law;
  const float* lam;  // or shared: [rows] or [1]; for packed weights with room for a vector more
};

// A weight [outputs, inner] as the contraction kernel wants it: panels of one or two vectors of outputs,
// each panel with one row per inner entry. Source pairs lie in the order of generation.
struct Packed {
  int64_t outputs, inner;      // rows of the parameter, row-major, and entries in a row
  int64_t first;               // number of the first of them in the parameter
  int64_t rows;                // packed rows; even where pairs are multiplied
  int64_t steps;               // networks after the first
  const float* a;              // [groups of W outputs][inner][W]: first network, zero beyond outputs
  const float* const* others;  // [steps], laid out alike: the difference to it where there is one step and its
                               // law has no ends, else the network itself
  const int32_t* place;        // packed row of each inner entry; null: the same number
  const int32_t* inverse;      // inner entry of each packed row, -1 for a row of zeros
  int dtype;                   // whose rounding the values have
  int sharing;
  uint32_t unit;
};

// Where the kernel of a loss adds its sums, and what it needs.
struct LossSums {
  float* scratch;  // room for width and one more vector's lanes of vectors; twice with probabilities
  double* loss;    // sum is added
  double* correct;
  float* each;  // [samples] every sample's loss, or with each_correct its share of correct answers; or null
  bool each_correct;
};

// Moments of channels: a value near each mean, and sums of the differences to it and of their squares; [channels].
struct ChannelMoments {
  float* pivot;
  double* sum;
  double* squares;
};

// Linear assignments of one size.
struct Assignment {
  const void* similarity;  // [count, n, n], double or float
  bool wide;
  int64_t count, n;
  char* scratch;     // see assignment_scratch
  int64_t* columns;  // [count, n]: of each row
};
inline int64_t assignment_scratch(int64_t n, bool wide) { return (n * (wide ? 8 : 4) + 8 * 8) * (n + 8); }

// The kernels of one instruction level. `dtype` (of Dtype) is that of operands without a type of their own.
struct Kernels {
  const char* name;
  int width;   // lanes of a vector
  bool pairs;  // bfloat16 weights lie in pairs of inner entries for the dot-product instruction
  void (*coefficients)(const Stream&, const Law&, int64_t count, float* out);
  // a [rows, inner] moved towards each of b [steps, rows, inner] in turn; scratch of rows * inner floats where
  // there are several
  void (*mix)(const Source*, int64_t steps, int sharing, const float* a, const float* b, int64_t rows, int64_t inner,
              int form, float* scratch, void* out);
  void (*pack)(const float* a, const float* b, int64_t outputs, int64_t inner, bool ends, float* packed_a,
               float* packed_other);
  // vectors of outputs [first, last) of one packed weight; scratch of 2 * inner * W floats
  void (*generate)(const Source*, const Packed&, int64_t first, int64_t last, float* scratch, void* out);
  void (*matmul)(const Matmul&, int dtype);
  void (*unary)(const Unary&, int dtype);
  void (*binary)(const Binary&, int dtype);
  void (*integers)(const Integers&, int dtype);
  void (*choose)(const Choose&, int dtype);
  void (*affine)(const Affine&, int dtype);
  void (*convert)(const Convert&);
  void (*pool)(const Pool&, int dtype);
  void (*depthwise)(const Depthwise&, int dtype);
  void (*layer_norm)(const LayerNorm&, int dtype);
  void (*softmax)(const Softmax&, int dtype);
  void (*group_norm)(const GroupNorm&, int dtype);
  void (*reduce)(const Reduce&, int dtype);
  void (*attention)(const Attention&, int dtype, float* scratch);  // scratch: see attention_scratch
  void (*product)(const Product&, int dtype, float* scratch);      // of (inner + kPanel) * kPanel floats
  void (*arrange)(const Arrange&, int dtype, float* scratch);      // of segments * run * width floats
  void (*cumsum)(const Cumsum&, int dtype);
  void (*resample)(const Resample&, int dtype);
  void (*moments)(const Moments&, int dtype, const ChannelMoments&);
  void (*loss)(const Loss&, const LossSums&);
  void (*border)(const Border&, int dtype);
  void (*zero)(const Zero&, int dtype);
  void (*embedding)(const Embedding&, int dtype);
  void (*take)(const Take&, int dtype);
  void (*scatter)(const Scatter&, int dtype);
  void (*order)(const Order&, int dtype);
  void (*fold_batch_norm)(const FoldBatchNorm&);
  void (*transpose)(const Transpose&);
  void (*match)(const Assignment&);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512, kAvx512Bf16;
#endif

}  // namespace fastcomb
