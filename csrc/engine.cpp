#include "engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace fastcomb {

constexpr int64_t kBeyond = 64;  // floats after shared coefficients, which vectors may read

std::vector<std::string> levels() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) found.push_back("avx512_bf16");
  if (avx512) found.push_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back("avx2");
#endif
  found.push_back("portable");
  return found;
}

const Kernels* find_level(const std::string& name) {
  const auto known = levels();
  if (std::find(known.begin(), known.end(), name) == known.end()) return nullptr;
#if defined(__x86_64__)
  for (const Kernels* k : {&kAvx512Bf16, &kAvx512, &kAvx2})
    if (name == k->name) return k;
#endif
  return &kPortable;
}

Buffer::~Buffer() { free(data); }

char* Buffer::get(size_t bytes) {
  if (bytes > size || !data) {
    constexpr size_t huge = 2 << 20;
    const size_t unit = bytes >= huge ? huge : 64;
    free(data);
    data = nullptr;
    size = (bytes + unit) / unit * unit;
    data = (char*)aligned_alloc(unit, size);
    if (!data) {
      size = 0;
      throw std::bad_alloc();
    }
#if defined(MADV_HUGEPAGE)
    if (unit == huge) madvise(data, size, MADV_HUGEPAGE);
#endif
  }
  return data;
}

Engine::Engine(const Kernels* kernels, uint64_t seed, std::vector<Law> laws)
    : k_(kernels), seed_(seed), laws_(std::move(laws)) {}

int Engine::add(Parameter given) {
  parameters_.push_back(std::make_unique<Parameter>(std::move(given)));
  Parameter& p = *parameters_.back();
  const int64_t groups = (p.packed.outputs + k_->width - 1) / k_->width;
  const int64_t steps = p.packed.steps = (int64_t)laws_.size();
  if (p.form == kPacked) {
    const size_t bytes = groups * k_->width * p.packed.inner * sizeof(float);
    float* own_a = (float*)p.own_a.get(bytes);
    p.own_others.resize(steps);
    for (int64_t step = 0; step < steps; ++step) {
      float* own_other = (float*)p.own_others[step].get(bytes);
      const int64_t skipped = p.packed.first * p.packed.inner;
      k_->pack(p.a + skipped, p.b + step * p.elements + skipped, p.packed.outputs, p.packed.inner,
               laws_[step].ends, own_a, own_other);
      p.others.push_back(own_other);
    }
    p.packed.a = own_a;
    p.packed.others = p.others.data();
    p.packed.place = p.place.empty() ? nullptr : p.place.data();
    p.packed.inverse = p.inverse.data();
    scratch_floats_ = std::max(scratch_floats_, 2 * p.packed.inner * k_->width);
  } else if (steps > 1) {
    scratch_floats_ = std::max(scratch_floats_, p.elements);
  }
  const int number = (int)parameters_.size() - 1;
  const int64_t pieces = p.form == kPacked ? groups : 1, together = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, p.packed.inner * k_->width));
  for (int64_t g = 0; g < pieces; g += together) tasks_.push_back({number, g, std::min(g + together, pieces)});
  unit_of_.push_back(-1);
  if (p.packed.sharing != kElement) {
    size_t u = 0;
    while (u < units_.size() && units_[u].first != p.packed.unit) ++u;
    if (u == units_.size()) units_.push_back({p.packed.unit, 0});
    units_[u].second = std::max(units_[u].second, p.draws);
    unit_of_.back() = (int)u;
  }
  draws_ += (double)p.packed.outputs * p.packed.inner;
  return number;
}

void Engine::finish(int64_t weight_bytes, std::vector<Instruction> setup, const char* constants) {
  weight_bytes_ = weight_bytes;
  setup_ = std::move(setup);
  constants_ = constants;
  for (const auto& unit : units_) {
    unit_offset_.push_back(unit_floats_);
    unit_floats_ += (unit.second + kBeyond) * (int64_t)laws_.size();
  }
}

int Engine::add_pass(Pass pass) {
  passes_.push_back(std::move(pass));
  return (int)passes_.size() - 1;
}

int64_t Engine::bytes() const {
  int64_t total = 0;
  for (const auto& p : parameters_) total += (int64_t)p->own_a.size * (1 + p->packed.steps);
  for (const auto& w : workers_) total += w.arena.size + w.scratch.size;
  for (const auto& c : combinations_) total += c.weights.size + c.lasting.size + c.moments.size + c.coefficients.size;
  return total;
}

void Engine::generate(const Team& team, uint64_t index, Combination& c) {
  float* lam = (float*)c.coefficients.get(unit_floats_ * sizeof(float));
  const auto stream = [&](uint32_t unit, size_t step) {
    return Stream(seed_, step_unit(unit, step), index);
  };
  for (size_t u = 0; u < units_.size(); ++u)
    for (size_t step = 0; step < laws_.size(); ++step)
      k_->coefficients(stream(units_[u].first, step), laws_[step], units_[u].second,
                       lam + unit_offset_[u] + step * (units_[u].second + kBeyond));
  char* weights = c.weights.get(weight_bytes_);
  team.each((int64_t)tasks_.size(), [&](int64_t t, int worker) {
    const Parameter& p = *parameters_[tasks_[t].parameter];
    const Packed& q = p.packed;
    const int u = unit_of_[tasks_[t].parameter];
    Worker& w = workers_[worker];
    w.sources.clear();
    for (size_t step = 0; step < laws_.size(); ++step)
      w.sources.push_back({stream(q.unit, step), &laws_[step],
                           u < 0 ? nullptr : lam + unit_offset_[u] + step * (units_[u].second + kBeyond)});
    float* scratch = (float*)w.scratch.get(scratch_floats_ * sizeof(float));
    char* out = weights + p.offset;
    if (p.form == kPacked)
      k_->generate(w.sources.data(), q, tasks_[t].first, tasks_[t].last, scratch, out);
    else
      k_->mix(w.sources.data(), q.steps, q.sharing, p.a, p.b, q.outputs, q.inner, p.form, scratch, out);
  });
}

// The combination's weights, and what is worked out from them before any sample.
void Engine::start(const Team& team, uint64_t index, const float* statistics, Combination& c, Frame& frame) {
  generate(team, index, c);
  frame.base.assign(kInputs, nullptr);
  frame.base[kWeights] = c.weights.data;
  frame.base[kConstants] = (char*)constants_;
  frame.base[kStatistics] = (char*)statistics;
  for (const Instruction& i : setup_) {
    const bool needs = i.op == kFoldOp && i.at[2].space == kStatistics;
    if (needs && !statistics) continue;  // collected stage by stage instead
    execute(i, frame, nullptr, 0, workers_[team.worker]);
  }
}

void Engine::stages(const Team& team, const Pass& pass, Combination& c, Frame& frame, double* record) {
  const int64_t blocks = (pass.samples + pass.block - 1) / pass.block;
  frame.block = pass.block;
  frame.base[kLong] = pass.lasting ? c.lasting.get(pass.lasting * blocks) : nullptr;
  frame.base.resize(kInputs);
  for (const char* input : *frame.data) frame.base.push_back((char*)input);
  frame.sums.assign(2 * blocks, 0);
  int64_t begin = 0;
  for (size_t s = 0; s < pass.ends.size(); ++s) {
    const Collected* collected = s < pass.collected.size() ? &pass.collected[s] : nullptr;
    const int64_t channels = collected ? collected->channels : 0;
    frame.moments = (double*)c.moments.get(blocks * 3 * channels * sizeof(double));
    team.each(blocks, [&](int64_t block, int worker) {
      Worker& w = workers_[worker];
      char* arena = w.arena.get(pass.arena);
      const bool shorter = (block + 1) * pass.block > pass.samples;
      const auto& list = shorter ? pass.last : pass.whole;
      for (int64_t i = begin; i < pass.ends[s]; ++i) execute(list[i], frame, arena, block, w);
    });
    begin = pass.ends[s];
    if (!collected) continue;
    // moments of the blocks, in order: Chan, Golub and LeVeque's update
    const auto address = [&](const Address& a) { return a.space < 0 ? nullptr : (float*)(frame.base[a.space] + a.offset); };
    const float *gamma = address(collected->gamma), *beta = address(collected->beta);
    float *scale = address(collected->scale), *shift = address(collected->shift);
    for (int64_t ch = 0; ch < channels; ++ch) {
      double count = 0, mean = 0, squares = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        const double* m = frame.moments + b * 3 * channels;
        const double n = (double)std::min(pass.block, pass.samples - b * pass.block) * collected->per_sample;
        const double own = m[ch] + m[channels + ch] / n;
        const double spread = m[2 * channels + ch] - m[channels + ch] * m[channels + ch] / n;
        const double delta = own - mean;
        squares += spread + delta * delta * count * n / (count + n);
        mean += delta * n / (count + n);
        count += n;
      }
      record[collected->statistics + ch] += mean;
      record[collected->statistics + channels + ch] += squares / (count - 1);
      const double factor = (gamma ? gamma[ch] : 1.0) / sqrt(squares / count + collected->eps);
      scale[ch] = (float)factor;
      shift[ch] = (float)((beta ? beta[ch] : 0.0) - mean * factor);
    }
  }
}

// Whole combinations side by side where there are enough of them, else the pool shares each one.
template <class Body>
void Engine::each_combination(int64_t count, double work, int threads, const Body& body) {
  Pool& pool = Pool::get();
  std::lock_guard<std::mutex> lock(pool.in_use());
  constexpr double kWorthwhile = 2e6;  // operations below which waking threads costs more than it saves
  if (work * count < kWorthwhile) threads = 1;
  if (threads > 1) pool.resize(threads);
  workers_.resize(std::max<size_t>(workers_.size(), threads));
  const bool beside = count >= 2 * threads || count % threads == 0;
  combinations_.resize(std::max<size_t>(combinations_.size(), beside ? threads : 1));
  if (threads == 1) {
    for (int64_t k = 0; k < count; ++k) body(k, Team{nullptr, 0}, combinations_[0]);
  } else if (beside) {
    pool.run(count, [&](int64_t k, int worker) { body(k, Team{nullptr, worker}, combinations_[worker]); });
  } else {
    for (int64_t k = 0; k < count; ++k) body(k, Team{&pool, 0}, combinations_[0]);
  }
}

void Engine::run(const uint64_t* index, int64_t count, int pass, const Data& data, int64_t input_step, const float* statistics,
                 int64_t statistics_floats, double* sums, char* outputs, int64_t output_bytes, int threads) {
  const Pass& p = passes_[pass];
  each_combination(count, draws_ * (double)p.samples, threads, [&](int64_t k, const Team& team, Combination& c) {
    Frame frame;
    Data own = data;
    own[0] += k * input_step;
    frame.data = &own;
    start(team, index[k], statistics ? statistics + k * statistics_floats : nullptr, c, frame);
    frame.base[kOutput] = outputs ? outputs + k * output_bytes : nullptr;
    stages(team, p, c, frame, nullptr);
    if (!sums) return;
    double total[2] = {0, 0};
    for (size_t b = 0; b < frame.sums.size(); ++b) total[b % 2] += frame.sums[b];
    sums[2 * k] = total[0];
    sums[2 * k + 1] = total[1];
  });
}

void Engine::decide(const uint64_t* index, int64_t count, int whole, int rest, const Data& inputs,
                    const std::vector<int64_t>& bytes, const float* statistics, int64_t statistics_floats,
                    const Question& question, int32_t* answers, int32_t* taken, double* means, int threads) {
  const int64_t together = passes_[whole].samples;
  const double work = draws_ * (double)std::min(4 * together, question.samples);
  each_combination(count, work, threads, [&](int64_t k, const Team& team, Combination& c) {
    Frame frame;
    start(team, index[k], statistics ? statistics + k * statistics_floats : nullptr, c, frame);
    Data gathered(inputs.size());
    c.gathered.resize(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) gathered[i] = c.gathered[i].get(together * bytes[i]);
    c.each.resize(together);
    frame.data = &gathered;
    frame.each = c.each.data(), frame.each_correct = question.correct;
    c.decision.start(question, index[k]);
    Answer answer = kUndecided;
    int64_t got;
    for (const int32_t* samples; answer == kUndecided && (samples = c.decision.next(together, &got), got > 0);) {
      for (size_t i = 0; i < inputs.size(); ++i)
        for (int64_t s = 0; s < got; ++s)
          memcpy((char*)gathered[i] + s * bytes[i], inputs[i] + samples[s] * bytes[i], bytes[i]);
      stages(team, passes_[got == together ? whole : rest], c, frame, nullptr);
      answer = c.decision.take(samples, c.each.data(), got);
    }
    answers[k] = answer;
    taken[k] = (int32_t)c.decision.taken();
    means[k] = c.decision.mean();
  });
}

void Engine::collect(const uint64_t* index, int64_t count, const std::vector<int>& passes,
                     const std::vector<Data>& data, int64_t floats, float* statistics, int threads) {
  double work = draws_;
  for (const int pass : passes) work += draws_ * (double)passes_[pass].samples;
  each_combination(count, work, threads, [&](int64_t k, const Team& team, Combination& c) {
    Frame frame;
    std::vector<double> record(floats, 0);
    start(team, index[k], nullptr, c, frame);
    for (size_t i = 0; i < passes.size(); ++i) {
      frame.data = &data[i];
      stages(team, passes_[passes[i]], c, frame, record.data());
    }
    for (int64_t s = 0; s < floats; ++s) statistics[k * floats + s] = (float)(record[s] / (double)passes.size());
  });
}

namespace {

// Reads an instruction's integers in order.
struct Reader {
  const int64_t* at;
  int64_t next() { return *at++; }
  void fill(int64_t* to, int count) {
    for (int i = 0; i < count; ++i) to[i] = *at++;
  }
};

Elementwise elementwise(Reader n, char* x, char* y, char* out) {
  Elementwise e{};
  e.x = x, e.y = y, e.out = out;
  e.op = (int)n.next();
  n.fill(e.size, kMaxDims);
  n.fill(e.x_stride, kMaxDims);
  n.fill(e.y_stride, kMaxDims);
  n.fill(e.out_stride, kMaxDims);
  return e;
}

// Zeros around [batch, height, width, channels] with `top`, `left` more on each side.
void border(Reader n, char* p, int64_t item) {
  const int64_t batch = n.next(), height = n.next(), width = n.next(), channels = n.next(), top = n.next(),
                left = n.next();
  const int64_t line = (width + 2 * left) * channels * item, edge = left * channels * item;
  for (int64_t b = 0; b < batch; ++b) {
    memset(p, 0, top * line);
    p += top * line;
    for (int64_t y = 0; y < height; ++y, p += line) {
      memset(p, 0, edge);
      memset(p + line - edge, 0, edge);
    }
    memset(p, 0, top * line);
    p += top * line;
  }
}

}  // namespace

void Engine::execute(const Instruction& i, const Frame& frame, char* arena, int64_t block, Worker& w) const {
  const auto at = [&](size_t which) -> char* {
    if (which >= i.at.size() || i.at[which].space < 0) return nullptr;
    const Address& a = i.at[which];
    return (a.space == kArena ? arena : frame.base[a.space]) + a.offset + a.step * block;
  };
  Reader n{i.n.data()};
  const int64_t item = i.storage == kFloat32 ? 4 : 2;
  switch (i.op) {
    case kContract: {
      Contraction c{};
      c.in = at(0), c.weights = at(1), c.out = at(2), c.residual = at(3);
      c.scale = (const float*)at(4), c.shift = (const float*)at(5);
      c.batch = n.next(), c.lines = n.next(), c.rows = n.next();
      c.in_batch = n.next(), c.in_line = n.next(), c.in_row = n.next();
      c.out_batch = n.next(), c.out_line = n.next(), c.out_row = n.next();
      c.res_batch = n.next(), c.res_line = n.next(), c.res_row = n.next();
      c.outputs = n.next(), c.relu = n.next(), c.out_float = n.next();
      c.run = n.next(), c.segments = n.next();
      c.segment = n.at;
      return k_->contract(c, i.storage);
    }
    case kUnaryOp:
    case kBinaryOp: {
      Elementwise e = elementwise(n, at(0), at(1), at(2));
      e.alpha = (float)i.f[0], e.beta = (float)i.f[1];
      return i.op == kUnaryOp ? k_->unary(e, i.storage) : k_->binary(e, i.storage);
    }
    case kAffineOp:
      return k_->affine(elementwise(n, at(0), at(1), at(2)), (float*)at(3), (float*)at(4), i.storage);
    case kConvertOp: {
      const int64_t count = n.next(), from = n.next(), to = n.next();
      return k_->convert(at(0), (int)from, at(1), (int)to, count);
    }
    case kPoolOp: {
      Pooling p{};
      p.in = at(0), p.out = at(1);
      p.maximum = n.next(), p.count_padding = n.next(), p.adaptive = n.next();
      for (int64_t* to : {&p.batch, &p.channels, &p.in_h, &p.in_w, &p.out_h, &p.out_w, &p.in_batch, &p.in_row,
                          &p.in_pixel, &p.out_batch, &p.out_row, &p.out_pixel, &p.kernel_h, &p.kernel_w,
                          &p.stride_h, &p.stride_w, &p.pad_h, &p.pad_w, &p.dilation_h, &p.dilation_w, &p.divisor})
        *to = n.next();
      return k_->pool(p, i.storage);
    }
    case kDepthwiseOp: {
      Depthwise d{};
      d.in = at(0), d.weights = (float*)at(1), d.out = at(2);
      d.scale = (float*)at(4), d.shift = (float*)at(5);
      d.relu = n.next();
      for (int64_t* to : {&d.batch, &d.channels, &d.out_h, &d.out_w, &d.kernel_h, &d.kernel_w, &d.in_batch,
                          &d.in_row, &d.in_pixel, &d.out_batch, &d.out_row, &d.out_pixel, &d.stride_h, &d.stride_w,
                          &d.dilation_h, &d.dilation_w})
        *to = n.next();
      return k_->depthwise(d, i.storage);
    }
    case kLayerNormOp:
    case kSoftmaxOp: {
      Rows r{};
      r.in = at(0), r.out = at(1), r.scale = (float*)at(2), r.shift = (float*)at(3);
      r.count = n.next(), r.width = n.next(), r.logarithm = n.next();
      r.eps = (float)i.f[0];
      return i.op == kLayerNormOp ? k_->layer_norm(r, i.storage) : k_->softmax(r, i.storage);
    }
    case kGroupNormOp: {
      GroupNorm g{};
      g.in = at(0), g.out = at(1), g.scale = (float*)at(2), g.shift = (float*)at(3);
      for (int64_t* to : {&g.batch, &g.channels, &g.groups, &g.pixels_h, &g.pixels_w, &g.in_batch, &g.in_row,
                          &g.in_pixel, &g.out_batch, &g.out_row, &g.out_pixel})
        *to = n.next();
      g.eps = (float)i.f[0];
      return k_->group_norm(g, i.storage);
    }
    case kReduceOp: {
      Reduce r{};
      r.in = at(0), r.out = at(1);
      r.maximum = n.next();
      for (int64_t* to : {r.outer, r.outer_in, r.outer_out, r.over, r.over_in}) n.fill(to, kMaxDims);
      r.factor = (float)i.f[0];
      return k_->reduce(r, i.storage);
    }
    case kAttentionOp: {
      Attention a{};
      a.q = at(0), a.k = at(1), a.v = at(2), a.out = at(3);
      for (int64_t* to : {&a.batch, &a.heads, &a.queries, &a.keys, &a.width, &a.value_width}) *to = n.next();
      for (int64_t* to : {a.q_stride, a.k_stride, a.v_stride, a.out_stride}) n.fill(to, 3);
      a.causal = n.next();
      a.scale = (float)i.f[0];
      return k_->attention(a, i.storage, (float*)w.scratch.get((a.keys + 64) * sizeof(float)));
    }
    case kMomentsOp: {
      const Elementwise e = elementwise(n, at(0), nullptr, nullptr);
      const int64_t channels = e.size[kMaxDims - 1];
      double* to = frame.moments + block * 3 * channels;
      float* pivot = (float*)w.scratch.get(channels * sizeof(float));
      k_->moments(e, i.storage, pivot, to + channels, to + 2 * channels);
      std::copy(pivot, pivot + channels, to);
      return;
    }
    case kLossOp: {
      Loss l{};
      l.outputs = (const float*)at(0);
      l.labels = (const int64_t*)at(1), l.values = (const float*)at(1);
      l.kind = (int)n.next(), l.classes = n.next(), l.samples = n.next(), l.width = n.next();
      double* to = const_cast<double*>(frame.sums.data()) + 2 * block;
      l.loss = to, l.correct = to + 1;
      l.each = frame.each ? frame.each + block * frame.block : nullptr, l.each_correct = frame.each_correct;
      l.scratch = (float*)w.scratch.get((l.width + k_->width) * k_->width * sizeof(float));
      return k_->loss(l);
    }
    case kBorderOp:
      return border(n, at(0), item);
    case kZeroOp:
      memset(at(0), 0, n.next() * item);
      return;
    case kEmbeddingOp: {
      const int64_t* ids = (const int64_t*)at(0);
      const char* table = at(1);
      char* out = at(2);
      const int64_t count = n.next(), width = n.next();
      for (int64_t r = 0; r < count; ++r) memcpy(out + r * width * item, table + ids[r] * width * item, width * item);
      return;
    }
    case kFoldOp: {  // scale and shift of normalisation with statistics, and of a bias before it
      const float *gamma = (float*)at(0), *beta = (float*)at(1), *mean = (float*)at(2), *variance = (float*)at(3),
                  *bias = (float*)at(4);
      float *scale = (float*)at(5), *shift = (float*)at(6);
      for (int64_t c = 0, channels = n.next(); c < channels; ++c) {
        const double factor = (gamma ? gamma[c] : 1.0) / sqrt((double)variance[c] + i.f[0]);
        scale[c] = (float)factor;
        shift[c] = (float)((beta ? beta[c] : 0.0) + ((bias ? bias[c] : 0.0) - mean[c]) * factor);
      }
      return;
    }
    case kTransposeOp: {
      const int64_t rows = n.next(), columns = n.next();
      const float* in = (const float*)at(0);
      float* out = (float*)at(1);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) out[c * rows + r] = in[r * columns + c];
      return;
    }
  }
}

}  // namespace fastcomb
