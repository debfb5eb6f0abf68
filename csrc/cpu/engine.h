// Runs a lowered program over combinations: weights generated into scratch, then blocks of samples through
// all instructions, ending in losses or outputs.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "decide.h"
#include "kernels.h"
#include "thread_pool.h"

namespace fastcomb {

const Kernels* find_level(const std::string& name);  // null if unknown or not supported by this processor
std::vector<std::string> levels();                   // supported here, best first

// Memory that grows, aligned to 64 bytes; contents are not kept when it does.
struct Buffer {
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : data(std::exchange(other.data, nullptr)), size(std::exchange(other.size, 0)) {}
  ~Buffer();
  char* get(size_t bytes);
  char* data = nullptr;
  size_t size = 0;
};

// A parameter and what becomes of it for every combination.
struct Parameter {
  Packed packed;       // outputs, inner, sharing and unit serve all kinds
  int form;            // of Form
  int64_t elements;    // of the whole parameter
  int64_t offset;      // in the weights, bytes
  int64_t draws;       // coefficients of its unit, where shared
  const float *a, *b;  // row-major; b [steps][elements]
  Buffer own_a;
  std::vector<Buffer> own_others;
  std::vector<const float*> others;
  std::vector<int32_t> place, inverse;
};

// After a stage of calibration: what its moments become.
struct Collected {
  int64_t channels, per_sample, statistics;  // floats into the record: mean, then variance
  double eps;
  Address gamma, beta, scale, shift;
};

// Instructions for a block of samples, and where each stage ends among them.
struct Code {
  std::vector<Instruction> instructions;
  std::vector<int64_t> ends;
};

// One way through the program for a number of samples: whole blocks, and the last, shorter one.
struct Pass {
  int64_t samples, block;
  Code whole, last;  // as many stages; blocks of other sizes may take other instructions
  std::vector<Collected> collected;
  int64_t arena, lasting;           // bytes: per worker; per block
  std::string output;               // dtype of the outputs, "" where a pass has none
  std::vector<std::string> inputs;  // dtypes of its inputs
  // what it takes of what a call gives, known once its instructions are verified
  std::vector<int64_t> needed = {};  // bytes by space, from kStatistics on
  int64_t record = 0;                // floats of the record that it adds statistics to
};

// Bytes of each memory, by which instructions are verified. Those of kStatistics, kOutput and the inputs are
// known when a pass runs: what is needed of them is collected instead.
struct Extents {
  int64_t arena = 0, lasting = 0, weights = 0, constants = 0;
  std::vector<int64_t> needed = {};  // by space, from kStatistics on
};

class Engine {
 public:
  Engine(const Kernels* kernels, uint64_t seed, std::vector<Law> laws);  // a law for each step
  int add(Parameter parameter);
  void finish(int64_t weight_bytes, std::vector<Instruction> setup, const char* constants, int64_t constant_bytes);
  int add_pass(Pass pass);

  typedef std::vector<const char*> Data;  // addresses of the inputs, targets among them
  // For each of `count` combinations: sums [2] of loss and correct, or outputs [bytes], either may be null.
  // `statistics` [count][floats], or null. Input i of combination k starts at k * input_steps[i] bytes.
  // `input_bytes`: of each input, of one combination. Throws where a tensor is smaller than the pass needs.
  void run(const uint64_t* index, int64_t count, int pass, const Data& data, const std::vector<int64_t>& input_bytes,
           const std::vector<int64_t>& input_steps, const float* statistics, int64_t statistics_floats, double* sums,
           char* outputs, int64_t output_bytes, int threads);
  // Running statistics [count][floats] over calibration passes, one per batch.
  void collect(const uint64_t* index, int64_t count, const std::vector<int>& passes, const std::vector<Data>& data,
               const std::vector<std::vector<int64_t>>& input_bytes, int64_t floats, float* statistics, int threads);
  // For each of `count` combinations whether the mean value is below the question's level: samples are taken in
  // blocks of what the pass `whole` takes, the last ones by `rest`, until there is an answer. `inputs` are the
  // samples and the targets, of so many bytes each. Fills answers, samples taken and means [count].
  void decide(const uint64_t* index, int64_t count, int whole, int rest, const Data& inputs,
              const std::vector<int64_t>& bytes, const float* statistics, int64_t statistics_floats,
              const Question& question, int32_t* answers, int32_t* taken, double* means, int threads);
  int64_t bytes() const;
  const Pass& pass(int number) const;  // throws std::invalid_argument for one that was not added

 private:
  struct Worker {
    Buffer arena, scratch;
    std::vector<Source> sources;
  };
  struct Combination {  // memory of one combination in work
    Buffer weights, lasting, moments, coefficients;
    Decision decision;
    std::vector<Buffer> gathered;
    std::vector<float> each;
  };
  struct Frame {
    std::vector<char*> base;
    std::vector<double> sums;  // [block][2]
    double* moments;           // [block][3 * channels]
    const Data* data;
    int64_t block = 0;      // samples in a block
    float* each = nullptr;  // [samples] values of single samples, where they are wanted
    bool each_correct = false;
  };

  void check(const Pass& p, const std::vector<int64_t>& input_bytes, int64_t statistics_floats,
             int64_t output_bytes) const;
  template <class Body>
  void each_combination(int64_t count, double work, int threads, const Body& body);
  void generate(const Team& team, uint64_t index, Combination& c);
  void start(const Team& team, uint64_t index, const float* statistics, Combination& c, Frame& frame);
  void stages(const Team& team, const Pass& pass, Combination& c, Frame& frame, double* record);
  void execute(const Instruction& i, const Frame& frame, char* arena, int64_t block, Worker& w) const;

  const Kernels* k_;
  uint64_t seed_;
  std::vector<Law> laws_;
  std::vector<std::unique_ptr<Parameter>> parameters_;
  struct Task {
    int parameter;
    int64_t first, last;
  };
  std::vector<Task> tasks_;
  std::vector<std::pair<uint32_t, int64_t>> units_;  // shared coefficients: unit and how many
  std::vector<int64_t> unit_offset_;                 // of each, in floats
  std::vector<int> unit_of_;                         // of each parameter, or -1
  int64_t unit_floats_ = 0, weight_bytes_ = 0, scratch_floats_ = 0;
  double draws_ = 0;
  std::vector<Instruction> setup_;
  Extents extents_;
  const char* constants_ = nullptr;
  std::deque<Pass> passes_;  // which stay where they are
  std::vector<Worker> workers_;
  std::vector<Combination> combinations_;
};

}  // namespace fastcomb
