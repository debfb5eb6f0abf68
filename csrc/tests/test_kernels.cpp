// Kernels called directly, on every instruction level of this processor, against loops that say what they mean.
// Built and run by tests/kernels/test_cpp.py; prints what is wrong, and ends with the number of such lines.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../cpu/engine.h"
#include "../cpu/verify.h"
#include "../schema.h"

using namespace fastcomb;

namespace {

int failures = 0;
std::string where;

void check(bool right, const std::string& what) {
  if (right) return;
  ++failures;
  printf("%s: %s\n", where.c_str(), what.c_str());
}

// Whether two numbers agree up to `limit` of the larger one's size, or of 1.
bool close(double x, double y, double limit = 1e-5) { return fabs(x - y) <= limit * fmax(1, fmax(fabs(x), fabs(y))); }

std::vector<float> random_values(size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

template <class Function>
bool refuses(const Function& function) {
  try {
    function();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

// Draws of one unit by the one-counter function of philox.h, as the stream is defined (bits = 16).
void coefficients(const Kernels& k) {
  const Law law{kUnit, 16, false, 0, 1, 0, nullptr};
  const uint64_t seed = 0x123456789abcdef0u, index = 0xfedcba9876543210u;
  const uint32_t unit = 7;
  for (const int64_t count : {0, 1, 3, 63, 100, 500}) {
    std::vector<float> found(count + 1, -1);
    k.coefficients(Stream(seed, unit, index), law, count, found.data());
    for (int64_t e = 0; e < count; ++e) {
      const Words w = philox4x32_10(Words{{(uint32_t)(e >> 3), unit, (uint32_t)index, (uint32_t)(index >> 32)}},
                                    (uint32_t)seed, (uint32_t)(seed >> 32));
      const uint32_t draw = w.w[(e & 7) >> 1] >> (16 * (e & 1)) & 0xffff;
      check(found[e] == (draw + 0.5f) / 65536, "draw " + std::to_string(e) + " of " + std::to_string(count));
    }
    check(found[count] == -1, "written beyond " + std::to_string(count) + " coefficients");
  }
}

// A matrix product with weights [outputs, inner] that are generated from two equal networks, and so known.
void matmul(const Kernels& k, int64_t rows, int64_t inner, int64_t outputs) {
  const auto weights = random_values(outputs * inner, 1), x = random_values(rows * inner, 2),
             residual = random_values(rows * outputs, 3), scale = random_values(outputs, 4),
             shift = random_values(outputs, 5);
  const int64_t lanes = (outputs + k.width - 1) / k.width * k.width;
  std::vector<float> own_a(lanes * inner), own_other(lanes * inner), packed(lanes * inner),
      scratch(2 * inner * k.width);
  k.pack(weights.data(), weights.data(), outputs, inner, false, own_a.data(), own_other.data());
  const float* others[] = {own_other.data()};
  std::vector<int32_t> inverse(inner);
  for (int64_t i = 0; i < inner; ++i) inverse[i] = (int32_t)i;
  const Packed p{outputs, inner, 0, inner, 1, own_a.data(), others, nullptr, inverse.data(), kFloat32, kElement, 3};
  const Law law{kUnit, 16, false, 0, 1, 0, nullptr};
  const Source source{Stream(1, 3, 2), &law, nullptr};
  k.generate(&source, p, 0, lanes / k.width, scratch.data(), packed.data());
  const int64_t whole[] = {0};
  for (const bool ends : {false, true}) {
    std::vector<float> out(rows * outputs + 1, 77);
    Matmul m{};
    m.x = x.data(), m.weights = packed.data(), m.out = out.data();
    m.batch = m.lines = 1, m.rows = rows, m.in_row = inner, m.out_row = m.res_row = outputs, m.outputs = outputs;
    m.run = inner, m.segments = 1, m.segment = whole;
    if (ends) m.residual = residual.data(), m.scale = scale.data(), m.shift = shift.data(), m.relu = true;
    k.matmul(m, kFloat32);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t o = 0; o < outputs; ++o) {
        double sum = 0;
        for (int64_t i = 0; i < inner; ++i) sum += (double)x[r * inner + i] * weights[o * inner + i];
        if (ends) sum = fmax(0, sum * scale[o] + shift[o] + residual[r * outputs + o]);
        check(close(out[r * outputs + o], sum, 1e-4),
              "matmul " + std::to_string(rows) + " " + std::to_string(inner) + " " + std::to_string(outputs));
      }
    check(out.back() == 77, "matmul writes beyond its rows");
  }
}

void rows(const Kernels& k, int64_t width) {
  const int64_t count = 3;
  const auto x = random_values(count * width, 6);
  std::vector<float> out(count * width), logs(count * width);
  k.softmax(Softmax{x.data(), out.data(), count, width, false}, kFloat32);
  k.softmax(Softmax{x.data(), logs.data(), count, width, true}, kFloat32);
  for (int64_t r = 0; r < count; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < width; ++c) {
      sum += out[r * width + c];
      check(close(log(out[r * width + c]), logs[r * width + c]), "softmax and its logarithm");
    }
    check(close(sum, 1), "softmax does not sum to 1");
  }
  k.layer_norm(LayerNorm{x.data(), out.data(), nullptr, nullptr, count, width, true, 0}, kFloat32);
  for (int64_t r = 0; r < count && width > 1; ++r) {
    double mean = 0, square = 0;
    for (int64_t c = 0; c < width; ++c) mean += out[r * width + c], square += pow(out[r * width + c], 2);
    check(close(mean / width, 0) && close(square / width, 1, 1e-4), "layer norm leaves other moments");
  }
}

void pool(const Kernels& k, int64_t channels) {
  const int64_t size = 5, to = 3, kernel = 2, stride = 2, pad = 1;
  const auto x = random_values(size * size * channels, 7);
  for (const bool maximum : {true, false}) {
    std::vector<float> out(to * to * channels);
    Pool p{};
    p.x = x.data(), p.out = out.data(), p.maximum = maximum, p.count_padding = true;
    p.batch = 1, p.channels = channels, p.in_h = p.in_w = size, p.out_h = p.out_w = to;
    p.in_row = size * channels, p.in_pixel = p.out_pixel = channels, p.out_row = to * channels;
    p.kernel_h = p.kernel_w = kernel, p.stride_h = p.stride_w = stride, p.pad_h = p.pad_w = pad;
    p.dilation_h = p.dilation_w = 1;
    k.pool(p, kFloat32);
    for (int64_t i = 0; i < to * to * channels; ++i) {
      const int64_t c = i % channels, ox = i / channels % to, oy = i / channels / to;
      double best = -INFINITY, sum = 0;
      for (int64_t y = oy * stride - pad; y < oy * stride - pad + kernel; ++y)
        for (int64_t z = ox * stride - pad; z < ox * stride - pad + kernel; ++z)
          if (y >= 0 && y < size && z >= 0 && z < size) {
            const double value = x[(y * size + z) * channels + c];
            best = fmax(best, value), sum += value;
          }
      check(close(out[i], maximum ? best : sum / (kernel * kernel)), maximum ? "maximum pool" : "average pool");
    }
  }
}

// Products of matrices with any strides, and a matrix laid out as weights, which a product with 1s reads again.
void products(const Kernels& k, int64_t rows, int64_t inner, int64_t columns) {
  const auto x = random_values(rows * inner, 11), y = random_values(inner * columns, 12);
  std::vector<float> out(rows * columns + 1, 77), scratch((inner + kPanel) * kPanel);
  for (const bool turned : {false, true}) {
    Product p{};
    p.x = x.data(), p.y = y.data(), p.out = out.data(), p.rows = rows, p.inner = inner, p.columns = columns;
    p.x_row = turned ? 1 : inner, p.x_inner = turned ? rows : 1;
    p.y_inner = turned ? 1 : columns, p.y_column = turned ? inner : 1, p.out_row = columns;
    for (int64_t& size : p.batch) size = 1;
    k.product(p, kFloat32, scratch.data());
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) {
        double sum = 0;
        for (int64_t i = 0; i < inner; ++i)
          sum += (double)x[r * p.x_row + i * p.x_inner] * y[i * p.y_inner + c * p.y_column];
        check(close(out[r * columns + c], sum, 1e-4), "product " + std::to_string(inner));
      }
    check(out.back() == 77, "product writes beyond its rows");
  }
  const int64_t lanes = (columns + k.width - 1) / k.width * k.width, whole[] = {0};
  std::vector<float> packed(lanes * inner), natural(inner * k.width + k.width), again(rows * columns);
  k.arrange(Arrange{y.data(), packed.data(), true, columns, 1, inner, inner, columns, 1, whole}, kFloat32,
            natural.data());
  Matmul m{};
  m.x = x.data(), m.weights = packed.data(), m.out = again.data(), m.batch = m.lines = 1, m.rows = rows;
  m.in_row = inner, m.out_row = m.outputs = columns, m.run = inner, m.segments = 1, m.segment = whole;
  k.matmul(m, kFloat32);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < inner; ++i) sum += (double)x[r * inner + i] * y[i * columns + c];
      check(close(again[r * columns + c], sum, 1e-4), "arranged weights");
    }
}

// The second of two queries sees no key.
void attention(const Kernels& k, int64_t keys, int64_t width) {
  const auto q = random_values(2 * width, 13), kv = random_values(keys * width, 14);
  std::vector<float> mask(2 * keys, 0), out(2 * width);
  for (int64_t j = 0; j < keys; j += 2) mask[j] = 1;
  Attention a{};
  a.q = q.data(), a.k = a.v = kv.data(), a.out = out.data(), a.mask = mask.data(), a.batch = a.heads = 1;
  a.queries = 2, a.keys = keys, a.width = a.value_width = width, a.boolean = true, a.scale = 0.5f;
  a.q_stride[2] = a.k_stride[2] = a.v_stride[2] = a.out_stride[2] = width;
  a.mask_stride[2] = keys, a.mask_stride[3] = 1;
  std::vector<float> scratch(attention_scratch(a));
  k.attention(a, kFloat32, scratch.data());
  std::vector<double> wanted(width);
  double total = 0;
  for (int64_t j = 0; j < keys; j += 2) {
    double score = 0;
    for (int64_t c = 0; c < width; ++c) score += (double)q[c] * kv[j * width + c];
    total += exp(score / 2);
    for (int64_t c = 0; c < width; ++c) wanted[c] += exp(score / 2) * kv[j * width + c];
  }
  for (int64_t c = 0; c < width; ++c)
    check(close(out[c], wanted[c] / total, 1e-4) && out[width + c] == 0, "attention " + std::to_string(keys));
}

void lookups(const Kernels& k) {
  const auto x = random_values(6, 15);  // [2, 3]
  const int64_t numbers[] = {2, 0, 3};
  std::vector<float> out(6);
  const auto loops = [](int64_t outer, int64_t inner, int64_t (&to)[6], int64_t rest) {
    std::fill(to, to + 4, rest), to[4] = outer, to[5] = inner;
  };
  Take t{};
  t.indices = numbers, t.x = x.data(), t.out = out.data(), t.entries = 3, t.x_entry = 1;
  loops(2, 3, t.size, 1), loops(0, 1, t.index_stride, 0), loops(3, 0, t.x_stride, 0), loops(3, 1, t.out_stride, 0);
  k.take(t, kFloat32);
  for (int r = 0; r < 2; ++r)
    check(out[r * 3] == x[r * 3 + 2] && out[r * 3 + 1] == x[r * 3] && out[r * 3 + 2] != out[r * 3 + 2], "take");
  std::vector<float> back(6, 7);
  Scatter s{};
  s.indices = numbers, s.x = x.data(), s.out = back.data(), s.entries = 3, s.out_entry = 1, s.add = true;
  loops(2, 3, s.size, 1), loops(0, 1, s.index_stride, 0), loops(3, 1, s.x_stride, 0), loops(3, 0, s.out_stride, 0);
  k.scatter(s, kFloat32);
  for (int r = 0; r < 2; ++r)  // the last number is none of the entries
    check(close(back[r * 3 + 2], 7 + x[r * 3]) && back[r * 3 + 1] == 7 && close(back[r * 3], 7 + x[r * 3 + 1]),
          "scatter");
  const float given[] = {2, __builtin_nanf(""), -1, 2};
  float values[3];
  int64_t order_of[3];
  Order o{};
  o.x = given, o.values = values, o.numbers = order_of, o.kept = 3;
  loops(1, 4, o.size, 1), loops(0, 1, o.x_stride, 0);
  k.order(o, kFloat32);
  check(order_of[0] == 2 && order_of[1] == 0 && order_of[2] == 3 && values[2] == 2, "order");
  o.descending = o.nan_first = true, o.kept = 2;
  k.order(o, kFloat32);
  check(order_of[0] == 1 && order_of[1] == 0 && values[1] == 2, "descending order");
  const float weights[] = {0.25f, 0.75f, 1, 0};
  const int64_t taps[] = {0, 1, 2, 7};  // the last has no weight and is not read
  const float one = 1;
  const int64_t first = 0;
  std::vector<float> sums(2);
  k.resample(Resample{x.data(), &first, &one, taps, weights, sums.data(), 1, 1, 1, 3, 1, 2, 1, 2, 0, 3, 1, 0, 2, 1},
             kFloat32);
  check(close(sums[0], 0.25 * x[0] + 0.75 * x[1]) && close(sums[1], x[2]), "resample");
}

void layout(const Kernels& k) {
  const auto x = random_values(6, 8);
  std::vector<float> out(6);
  k.transpose(Transpose{x.data(), out.data(), 2, 3});
  for (int r = 0; r < 2; ++r)
    for (int c = 0; c < 3; ++c) check(out[c * 2 + r] == x[r * 3 + c], "transpose");
  std::vector<float> frame(4 * 5 * 2, 1);  // [1, 2 + 2, 3 + 2, 2]
  k.border(Border{frame.data(), 1, 2, 3, 2, 1, 1}, kFloat32);
  for (int y = 0; y < 4; ++y)
    for (int z = 0; z < 5; ++z)
      for (int c = 0; c < 2; ++c) check(frame[(y * 5 + z) * 2 + c] == (y > 0 && y < 3 && z > 0 && z < 4), "border");
  const int64_t indices[] = {2, 0, -1, 3};
  std::vector<float> rows_of(8);
  k.embedding(Embedding{indices, x.data(), rows_of.data(), 2, 3, {1, 1, 1, 1, 1, 4}, {0, 0, 0, 0, 0, 1}}, kFloat32);
  check(rows_of[0] == x[4] && rows_of[3] == x[1], "embedding");
  for (int i = 4; i < 8; ++i) check(rows_of[i] != rows_of[i], "an entry that the table does not have is no NaN");
  const float mean = 0.5f, variance = 4, bias = 1, gamma = 3, beta = 2;
  float scale, shift;
  k.fold_batch_norm(FoldBatchNorm{&gamma, &beta, &mean, &variance, &bias, &scale, &shift, 1, 0});
  check(close(scale, 1.5) && close(shift, 2.75), "fold batch norm");
}

void instructions(const Kernels& k) {
  Extents extents;
  extents.arena = 64;
  const auto zero = [&](std::vector<int64_t> numbers, Address at) {
    return Instruction{operation("zero"), kFloat32, {at}, std::move(numbers), {}};
  };
  check(!refuses([&] { verify(zero({16}, {kArena, 0, 0}), k, 0, extents); }), "refuses what fits");
  check(refuses([&] { verify(zero({17}, {kArena, 0, 0}), k, 0, extents); }), "takes what is too long");
  check(refuses([&] { verify(zero({16}, {kArena, 4, 0}), k, 0, extents); }), "takes what ends beyond");
  check(refuses([&] { verify(zero({1}, {kArena, -4, 0}), k, 0, extents); }), "takes what begins before");
  check(refuses([&] { verify(zero({8}, {kArena, 0, 64}), k, 1, extents); }), "takes a later block beyond");
  check(refuses([&] { verify(zero({}, {kArena, 0, 0}), k, 0, extents); }), "takes too few numbers");
  check(refuses([&] { verify(zero({1, 2}, {kArena, 0, 0}), k, 0, extents); }), "takes too many numbers");
  check(refuses([&] { verify(zero({1}, {-1, 0, 0}), k, 0, extents); }), "takes a missing operand");
  check(refuses([&] { operation("nothing"); }) && refuses([&] { entry("Dtype", "float1"); }), "knows unknown names");
  Instruction take{operation("take"), kFloat32, {{kConstants, 0, 0}, {kArena, 0, 0}, {kArena, 32, 0}}, {}, {}};
  take.n = {4, 1, 0, 1, 1, 1, 1, 1, 2};  // entries, x_entry, from_end, and two places
  for (int i = 0; i < 18; ++i) take.n.push_back(i % 6 == 5 && i != 11);
  extents.constants = 16;
  check(!refuses([&] { verify(take, k, 0, extents); }), "refuses entries that fit");
  take.n[0] = 17;
  check(refuses([&] { verify(take, k, 0, extents); }), "takes entries beyond");
  take.n[0] = 4, take.n[8] = 3;
  check(refuses([&] { verify(take, k, 0, extents); }), "takes more numbers than there are");
  Instruction order{operation("order"), kFloat32, {{kArena, 0, 0}, {kArena, 0, 0}, {kArena, 32, 0}}, {}, {}};
  order.n = {4, 0, 0, 1, 1, 1, 1, 1, 4, 0, 0, 0, 0, 0, 1};  // kept, two flags, and four places
  check(!refuses([&] { verify(order, k, 0, extents); }), "refuses an order that fits");
  order.n[0] = 5;
  check(refuses([&] { verify(order, k, 0, extents); }), "keeps more than there is");
  order.n[0] = 3, order.n[8] = 17;
  check(refuses([&] { verify(order, k, 0, extents); }), "orders what is beyond");
  Instruction product{operation("product"), kFloat32, {{kArena, 0, 0}, {kArena, 0, 0}, {kArena, 32, 0}}, {}, {}};
  product.n = {2, 2, 4, 2, 1, 4, 1, 4};  // rows, inner, columns, strides
  for (int i = 0; i < 16; ++i) product.n.push_back(i < 4);
  check(!refuses([&] { verify(product, k, 0, extents); }), "refuses matrices that fit");
  product.n[5] = 100;
  check(refuses([&] { verify(product, k, 0, extents); }), "takes a matrix beyond");
  for (const Schema& schema : operations()) check(operation(schema.name) == &schema - &operations()[0], schema.name);
}

}  // namespace

int main() {
  for (const std::string& name : levels()) {
    where = name;
    const Kernels& k = *find_level(name);
    coefficients(k);
    for (const int64_t outputs : {1, 3, 63, 100})
      for (const int64_t inner : {1, 3, 100}) matmul(k, 17, inner, outputs);
    for (const int64_t width : {1, 3, 63, 100, 500}) rows(k, width);
    for (const int64_t channels : {1, 3, 63}) pool(k, channels);
    for (const int64_t size : {1, 3, 63, 100}) products(k, 17, size, 101 - size), attention(k, size, 101 - size);
    lookups(k);
    layout(k);
    instructions(k);
  }
  printf("%d checks failed\n", failures);
  return failures != 0;
}
