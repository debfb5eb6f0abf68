// What the rest of the engine sees of the kernels: plain structs and one table of functions per
// instruction level.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../philox.h"

namespace fastcomb {

enum Storage : int { kFloat32 = 0, kBfloat16 = 1 };

// How draws become coefficients. A law's table is exact for every kind; the others compute the same values.
enum LawKind : int { kUnit = 0, kUniform = 1, kBernoulli = 2, kTable = 3 };

struct Law {
  int kind;
  int bits;            // 16 or 32
  bool ends;           // whether coefficients of exactly 0 or 1 occur, or there are several steps
  float low, range;    // kUniform: fma(u, range, low)
  uint32_t threshold;  // kBernoulli: 1 below this draw
  const float* table;  // kTable: coefficient of every draw
};

// How the entries of a parameter share coefficients.
enum Sharing : int { kElement = 0, kRow = 1, kAll = 2 };

// Where the coefficients of one step towards a network come from.
struct Source {
  Stream stream;     // drawn for every entry
  const Law* law;
  const float* lam;  // or shared: [rows] or [1]; for packed weights with room for a vector more
};

// How a mixed parameter is stored: for the contraction kernel, or row-major in float32, in float32 that holds
// a bfloat16's values, or in bfloat16.
enum Form : int { kPacked = 0, kFloat, kRounded, kHalf };

// A weight [outputs, inner] as the contraction kernel wants it: panels of one or two vectors of outputs,
// each panel with one row per inner entry. Source pairs lie in the order of generation.
struct Packed {
  int64_t outputs, inner;   // rows of the parameter, row-major, and entries in a row
  int64_t first;            // number of the first of them in the parameter
  int64_t rows;             // packed rows; even where pairs are multiplied
  int64_t steps;            // networks after the first
  const float* a;           // [groups of W outputs][inner][W]: first network, zero beyond outputs
  const float* const* others;  // [steps], laid out alike: the difference to it where there is one step and its
                               // law has no ends, else the network itself
  const int32_t* place;     // packed row of each inner entry; null: the same number
  const int32_t* inverse;   // inner entry of each packed row, -1 for a row of zeros
  int storage;              // rounding of the values
  int sharing;
  uint32_t unit;
};

// out = act(scale * (A x W) + shift + residual) over `lines` x `rows` rows: a matrix product, or a
// convolution with one line per row of output pixels. Strides count elements.
struct Contraction {
  const void* in;
  int64_t batch, lines, rows;                  // samples, lines per sample, rows per line
  int64_t in_batch, in_line, in_row;
  int64_t segments, run;                       // inner entries: segments of contiguous runs
  const int64_t* segment;                      // offset of each
  const void* weights;                         // as generated from a Packed
  int64_t outputs;
  void* out;
  int64_t out_batch, out_line, out_row;
  bool out_float;                              // store float32 whatever the storage
  const void* residual;                        // or null; strides as `out`'s own
  int64_t res_batch, res_line, res_row;
  const float* scale;                          // per output, or null
  const float* shift;                          // per output, or null
  bool relu;
};

enum Unary : int {
  kRelu = 0, kLeakyRelu, kGelu, kGeluTanh, kSilu, kTanh, kSigmoid, kElu, kHardtanh, kHardswish,
  kHardsigmoid, kSoftplus, kExp, kNeg, kAbs, kSqrt, kRsqrt, kIdentity,
};
enum Binary : int { kAdd = 0, kSub, kMul, kDiv };

constexpr int kMaxDims = 6;

// Element-wise work over a dense or strided block: sizes outermost first; a stride of 0 repeats.
struct Elementwise {
  int op;
  float alpha, beta;
  int64_t size[kMaxDims];
  const void* x;
  const void* y;
  void* out;
  int64_t x_stride[kMaxDims], y_stride[kMaxDims], out_stride[kMaxDims];
};

struct Pooling {
  const void* in;
  void* out;
  bool maximum, count_padding, adaptive;
  int64_t batch, channels, in_h, in_w, out_h, out_w;
  int64_t in_batch, in_row, in_pixel, out_batch, out_row, out_pixel;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t divisor;  // 0: the window's size
};

struct Depthwise {
  const void* in;
  void* out;
  const float* weights;  // [kernel_h * kernel_w][channels]
  const float* scale;
  const float* shift;
  bool relu;
  int64_t batch, channels, out_h, out_w, kernel_h, kernel_w;
  int64_t in_batch, in_row, in_pixel, out_batch, out_row, out_pixel;
  int64_t stride_h, stride_w, dilation_h, dilation_w;
};

// Rows [count, width], contiguous: layer norm over the width, softmax along it.
struct Rows {
  const void* in;
  void* out;
  int64_t count, width;
  const float* scale;
  const float* shift;
  float eps;
  bool logarithm;
};

// One group norm statistic per (sample, group) over pixels and the group's channels, channels last.
struct GroupNorm {
  const void* in;
  void* out;
  int64_t batch, channels, groups, pixels_h, pixels_w;
  int64_t in_batch, in_row, in_pixel, out_batch, out_row, out_pixel;
  const float* scale;
  const float* shift;
  float eps;
};

// out[outer, inner] = sum over n of in[outer, n, inner], times factor; strides in elements.
struct Reduce {
  const void* in;
  void* out;
  int64_t outer[kMaxDims], outer_in[kMaxDims], outer_out[kMaxDims];
  int64_t over[kMaxDims], over_in[kMaxDims];
  float factor;
  bool maximum;
};

struct Attention {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  int64_t batch, heads, queries, keys, width, value_width;
  int64_t q_stride[3], k_stride[3], v_stride[3], out_stride[3];  // batch, head, token
  float scale;
  bool causal;
};

enum LossKind : int { kCrossEntropy = 0, kNll = 1, kSquared = 2 };

struct Loss {
  int kind;
  bool classes;          // count correct classifications
  const float* outputs;  // [samples, width], contiguous
  int64_t samples, width;
  const int64_t* labels;
  const float* values;  // kSquared: [samples, width]
  float* scratch;       // room for width and one more vector's lanes of vectors
  double* loss;         // sum is added
  double* correct;
  float* each;        // [samples] every sample's loss, or with each_correct 1 or 0; or null
  bool each_correct;
};

struct Kernels {
  const char* name;
  int width;           // lanes of a vector
  bool pairs;          // bfloat16 weights lie in pairs of inner entries for the dot-product instruction
  void (*coefficients)(const Stream&, const Law&, int64_t count, float* out);
  // a [rows, inner] moved towards each of b [steps, rows, inner] in turn; scratch of rows * inner floats where
  // there are several
  void (*mix)(const Source*, int64_t steps, int sharing, const float* a, const float* b, int64_t rows,
              int64_t inner, int form, float* scratch, void* out);
  void (*pack)(const float* a, const float* b, int64_t outputs, int64_t inner, bool ends, float* packed_a,
               float* packed_other);
  // vectors of outputs [first, last) of one packed weight; scratch of 2 * inner * W floats
  void (*generate)(const Source*, const Packed&, int64_t first, int64_t last, float* scratch, void* out);
  void (*contract)(const Contraction&, int storage);
  void (*unary)(const Elementwise&, int storage);
  void (*binary)(const Elementwise&, int storage);
  void (*affine)(const Elementwise&, const float* scale, const float* shift, int storage);
  void (*convert)(const void* in, int in_storage, void* out, int out_storage, int64_t count);
  void (*pool)(const Pooling&, int storage);
  void (*depthwise)(const Depthwise&, int storage);
  void (*layer_norm)(const Rows&, int storage);
  void (*softmax)(const Rows&, int storage);
  void (*group_norm)(const GroupNorm&, int storage);
  void (*reduce)(const Reduce&, int storage);
  void (*attention)(const Attention&, int storage, float* scratch);
  void (*moments)(const Elementwise&, int storage, float* pivot, double* sum, double* squares);
  void (*loss)(const Loss&);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512, kAvx512Bf16;
#endif

}  // namespace fastcomb
