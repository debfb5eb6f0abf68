// Values laid out, and constants worked out once for a combination.
#pragma once

#include "elementwise.h"

namespace FASTCOMB_LEVEL {

static void border(const fastcomb::Border& b, int dtype) {
  const int64_t pixel = b.channels * fastcomb::item_size(dtype);
  const int64_t line = (b.width + 2 * b.left) * pixel, edge = b.left * pixel;
  char* p = (char*)b.out;
  for (int64_t n = 0; n < b.batch; ++n) {
    memset(p, 0, b.top * line);
    p += b.top * line;
    for (int64_t y = 0; y < b.height; ++y, p += line) {
      memset(p, 0, edge);
      memset(p + line - edge, 0, edge);
    }
    memset(p, 0, b.top * line);
    p += b.top * line;
  }
}

static void zero(const fastcomb::Zero& z, int dtype) { memset(z.out, 0, z.count * fastcomb::item_size(dtype)); }

static void fold_batch_norm(const fastcomb::FoldBatchNorm& f) {
  for (int64_t c = 0; c < f.channels; ++c) {
    const double factor = (f.gamma ? f.gamma[c] : 1.0) / sqrt((double)f.variance[c] + f.eps);
    f.scale[c] = (float)factor;
    f.shift[c] = (float)((f.beta ? f.beta[c] : 0.0) + ((f.bias ? f.bias[c] : 0.0) - f.mean[c]) * factor);
  }
}

static void transpose(const fastcomb::Transpose& t) {
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.columns; ++c) t.out[c * t.rows + r] = t.x[r * t.columns + c];
}

}  // namespace FASTCOMB_LEVEL
