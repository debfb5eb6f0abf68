#include "engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <stdexcept>

#include "verify.h"

namespace fastcomb {

constexpr int64_t kBeyond = 64;  // floats after shared coefficients, which vectors may read

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

namespace {

// Throws unless what a parameter is packed from and to lies inside it.
void check_parameter(const Parameter& p) {
  const Packed& q = p.packed;
  if (!p.a || !p.b) throw std::invalid_argument("a parameter without values");
  if (q.outputs < 0 || q.inner < 0 || q.first < 0 || (q.first + q.outputs) * q.inner > p.elements)
    throw std::invalid_argument("a parameter of fewer entries than its rows");
  if (p.form < kPacked || p.form > kHalf || q.sharing < kElement || q.sharing > kAll)
    throw std::invalid_argument("a parameter of an unknown form");
  if (q.sharing == kRow && p.draws < q.first + q.outputs)
    throw std::invalid_argument("a parameter with fewer draws than rows");
  if (p.form != kPacked) return;
  if (!p.place.empty() && (int64_t)p.place.size() != q.inner)
    throw std::invalid_argument("a parameter with other places than entries");
  for (const int32_t row : p.place)
    if (row < 0 || row >= q.rows) throw std::invalid_argument("a parameter with a place beyond its rows");
  for (const int32_t entry : p.inverse)
    if (entry < -1 || entry >= q.inner) throw std::invalid_argument("a parameter with a row of no entry");
}

// Bytes of the weights that a parameter becomes.
int64_t generated_bytes(const Parameter& p, const Kernels& k) {
  if (p.form != kPacked) return p.elements * (p.form == kHalf ? 2 : 4);
  const int64_t lanes = (p.packed.outputs + k.width - 1) / k.width * k.width;
  return lanes * p.packed.rows * (k.pairs && p.packed.dtype == kBfloat16 ? 2 : 4);
}

}  // namespace

int Engine::add(Parameter given) {
  check_parameter(given);
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
      k_->pack(p.a + skipped, p.b + step * p.elements + skipped, p.packed.outputs, p.packed.inner, laws_[step].ends,
               own_a, own_other);
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
  const int64_t pieces = p.form == kPacked ? groups : 1,
                together = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, p.packed.inner * k_->width));
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

void Engine::finish(int64_t weight_bytes, std::vector<Instruction> setup, const char* constants,
                    int64_t constant_bytes) {
  extents_.weights = weight_bytes, extents_.constants = constant_bytes;
  for (const auto& p : parameters_)
    if (p->offset < 0 || p->offset + generated_bytes(*p, *k_) > weight_bytes)
      throw std::invalid_argument("a parameter beyond the weights' memory");
  for (const Instruction& i : setup) verify(i, *k_, 0, extents_);
  weight_bytes_ = weight_bytes;
  setup_ = std::move(setup);
  constants_ = constants;
  for (const auto& unit : units_) {
    unit_offset_.push_back(unit_floats_);
    unit_floats_ += (unit.second + kBeyond) * (int64_t)laws_.size();
  }
}

int Engine::add_pass(Pass pass) {
  if (pass.samples < 1 || pass.block < 1 || pass.arena < 0 || pass.lasting < 0)
    throw std::invalid_argument("a pass without samples");
  for (const Code* code : {&pass.whole, &pass.last})
    if (code->ends.empty() || !std::is_sorted(code->ends.begin(), code->ends.end()) || code->ends.front() < 0 ||
        code->ends.back() > (int64_t)code->instructions.size())
      throw std::invalid_argument("a pass whose stages end beyond its instructions");
  if (pass.whole.ends.size() != pass.last.ends.size() || pass.collected.size() > pass.whole.ends.size())
    throw std::invalid_argument("a pass of blocks with other stages");
  const int64_t blocks = (pass.samples + pass.block - 1) / pass.block;
  Extents extents = extents_;
  extents.arena = pass.arena, extents.lasting = pass.lasting * blocks;
  const bool shorter = pass.samples % pass.block != 0;
  if (blocks > 1 || !shorter)
    for (const Instruction& i : pass.whole.instructions) verify(i, *k_, blocks - 1 - shorter, extents);
  if (shorter)
    for (const Instruction& i : pass.last.instructions) verify(i, *k_, blocks - 1, extents);
  for (const Collected& c : pass.collected) {
    if (c.channels < 0 || c.statistics < 0) throw std::invalid_argument("a norm without channels");
    if (c.scale.space < 0 || c.shift.space < 0) throw std::invalid_argument("a norm without a scale and a shift");
    for (const Address& a : {c.gamma, c.beta, c.scale, c.shift}) verify(a, c.channels * 4, extents);
    pass.record = std::max(pass.record, c.statistics + 2 * c.channels);
  }
  pass.needed = extents.needed;
  pass.needed.resize(std::max<size_t>(pass.needed.size(), kInput - kStatistics), 0);
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

// Throws unless the tensors of a call are as large as its pass reads and writes them.
void Engine::check(const Pass& p, const std::vector<int64_t>& input_bytes, int64_t statistics_floats,
                   int64_t output_bytes) const {
  const auto short_of = [](int64_t needed, int64_t given, const std::string& what) {
    if (needed > given)
      throw std::invalid_argument(what + " of " + std::to_string(given) + " bytes where " + std::to_string(needed) +
                                  " are needed");
  };
  short_of(p.needed[0], 4 * statistics_floats, "statistics");
  short_of(p.needed[kOutput - kStatistics], output_bytes, "an output");
  for (size_t i = kInput - kStatistics; i < p.needed.size(); ++i) {
    const size_t at = i - (kInput - kStatistics);
    short_of(p.needed[i], at < input_bytes.size() ? input_bytes[at] : 0, "an input");
  }
}

const Pass& Engine::pass(int number) const {
  if (number < 0 || number >= (int)passes_.size()) throw std::invalid_argument("a pass that was not added");
  return passes_[number];
}

void Engine::generate(const Team& team, uint64_t index, Combination& c) {
  float* lam = (float*)c.coefficients.get(unit_floats_ * sizeof(float));
  const auto stream = [&](uint32_t unit, size_t step) { return Stream(seed_, step_unit(unit, step), index); };
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
    if (p.form == kPacked) k_->generate(w.sources.data(), q, tasks_[t].first, tasks_[t].last, scratch, out);
    else k_->mix(w.sources.data(), q.steps, q.sharing, p.a, p.b, q.outputs, q.inner, p.form, scratch, out);
  });
}

// The combination's weights, and what is worked out from them before any sample.
void Engine::start(const Team& team, uint64_t index, const float* statistics, Combination& c, Frame& frame) {
  generate(team, index, c);
  frame.base.assign(kInput, nullptr);
  frame.base[kWeights] = c.weights.data;
  frame.base[kConstants] = (char*)constants_;
  frame.base[kStatistics] = (char*)statistics;
  for (const Instruction& i : setup_) {
    const bool needs = std::any_of(i.at.begin(), i.at.end(), [](const Address& a) { return a.space == kStatistics; });
    if (needs && !statistics) continue;  // collected stage by stage instead
    execute(i, frame, nullptr, 0, workers_[team.worker]);
  }
}

void Engine::stages(const Team& team, const Pass& pass, Combination& c, Frame& frame, double* record) {
  const int64_t blocks = (pass.samples + pass.block - 1) / pass.block;
  frame.block = pass.block;
  frame.base[kLasting] = pass.lasting ? c.lasting.get(pass.lasting * blocks) : nullptr;
  frame.base.resize(kInput);
  for (const char* input : *frame.data) frame.base.push_back((char*)input);
  frame.sums.assign(2 * blocks, 0);
  for (size_t s = 0; s < pass.whole.ends.size(); ++s) {
    const Collected* collected = s < pass.collected.size() ? &pass.collected[s] : nullptr;
    const int64_t channels = collected ? collected->channels : 0;
    frame.moments = (double*)c.moments.get(blocks * 3 * channels * sizeof(double));
    team.each(blocks, [&](int64_t block, int worker) {
      Worker& w = workers_[worker];
      char* arena = w.arena.get(pass.arena);
      const bool shorter = (block + 1) * pass.block > pass.samples;
      const Code& code = shorter ? pass.last : pass.whole;
      for (int64_t i = s ? code.ends[s - 1] : 0; i < code.ends[s]; ++i)
        execute(code.instructions[i], frame, arena, block, w);
    });
    if (!collected) continue;
    // moments of the blocks, in order: Chan, Golub and LeVeque's update
    const auto address = [&](const Address& a) {
      return a.space < 0 ? nullptr : (float*)(frame.base[a.space] + a.offset);
    };
    const float *gamma = address(collected->gamma), *beta = address(collected->beta);
    float *scale = address(collected->scale), *shift = address(collected->shift);
    for (int64_t ch = 0; ch < channels; ++ch) {
      double count = 0, mean = 0, squares = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        const double* m = frame.moments + b * 3 * channels;
        const double n = (double)std::min(pass.block, pass.samples - b * pass.block) * collected->per_sample;
        const double own = m[ch] + m[channels + ch] / n;
        const double within = m[2 * channels + ch] - m[channels + ch] * m[channels + ch] / n;
        const double delta = own - mean;
        squares += within + delta * delta * count * n / (count + n);
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
  ThreadPool& pool = ThreadPool::get();
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

void Engine::run(const uint64_t* index, int64_t count, int pass, const Data& data,
                 const std::vector<int64_t>& input_bytes, const std::vector<int64_t>& input_steps,
                 const float* statistics, int64_t statistics_floats, double* sums, char* outputs, int64_t output_bytes,
                 int threads) {
  const Pass& p = this->pass(pass);
  if (input_steps.size() != data.size()) throw std::invalid_argument("inputs without steps");
  check(p, input_bytes, statistics ? statistics_floats : 0, outputs ? output_bytes : 0);
  each_combination(count, draws_ * (double)p.samples, threads, [&](int64_t k, const Team& team, Combination& c) {
    Frame frame;
    Data own = data;
    for (size_t i = 0; i < own.size(); ++i) own[i] += k * input_steps[i];
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
  const int64_t together = this->pass(whole).samples;
  if (inputs.size() != bytes.size()) throw std::invalid_argument("inputs without sizes");
  for (const int number : {whole, rest}) {
    std::vector<int64_t> sizes;
    for (const int64_t each : bytes) sizes.push_back(this->pass(number).samples * each);
    if (this->pass(number).samples > together) throw std::invalid_argument("a rest of more samples than a block");
    check(this->pass(number), sizes, statistics ? statistics_floats : 0, 0);
  }
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
                     const std::vector<Data>& data, const std::vector<std::vector<int64_t>>& input_bytes,
                     int64_t floats, float* statistics, int threads) {
  if (data.size() != passes.size() || input_bytes.size() != passes.size())
    throw std::invalid_argument("calibration passes without inputs");
  for (size_t i = 0; i < passes.size(); ++i) {
    const Pass& p = this->pass(passes[i]);
    if (p.record > floats) throw std::invalid_argument("a record of statistics that is too short");
    check(p, input_bytes[i], p.needed[0], 0);  // statistics are what it makes, so it reads none
  }
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

}  // namespace fastcomb
