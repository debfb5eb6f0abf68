// The CPU engine for Python. Tensors and names cross, no addresses and no numbers of enumerations.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "bind_instructions.h"
#include "cpu/engine.h"
#include "cuda/bind.h"
#include "law_binding.h"
#include "tensor.h"

namespace py = pybind11;
using namespace fastcomb;

namespace {

typedef std::tuple<std::string, std::string, py::dict> Given;  // operation, dtype, fields

std::vector<Instruction> instructions(const std::vector<Given>& given) {
  std::vector<Instruction> made;
  for (const auto& [name, dtype, fields] : given) made.push_back(instruction(name, dtype, fields));
  return made;
}

const Kernels* level(const std::string& name) {
  const Kernels* found = find_level(name);
  if (!found) throw std::invalid_argument("instruction level " + name + " is not available on this processor");
  return found;
}

// An engine, and the tensors whose addresses it keeps.
struct Held {
  Engine engine;
  size_t steps;
  std::vector<py::object> kept;
};

Engine::Data addresses(const std::vector<Tensor>& tensors, const Pass& pass) {
  if (tensors.size() != pass.inputs.size())
    throw std::invalid_argument(std::to_string(tensors.size()) + " inputs for a pass that takes " +
                                std::to_string(pass.inputs.size()));
  Engine::Data data;
  for (size_t i = 0; i < tensors.size(); ++i)
    data.push_back(any_values<const char>(tensors[i], "inputs", pass.inputs[i]));
  return data;
}

std::vector<int64_t> sizes(const std::vector<Tensor>& tensors) {
  std::vector<int64_t> bytes;
  for (const Tensor& t : tensors) bytes.push_back(t.nbytes());
  return bytes;
}

// Recomputed statistics float32 [K, floats], or none.
const float* record(const std::optional<Tensor>& statistics, int64_t count) {
  return statistics ? values<const float>(*statistics, "statistics", "float32", {count, -1}) : nullptr;
}

int64_t floats_of(const std::optional<Tensor>& statistics) { return statistics ? statistics->shape[1] : 0; }

void coefficients(const std::string& name, const HeldLaw& law, uint64_t seed, uint32_t unit, uint64_t index,
                  const Tensor& out) {
  const Kernels* k = level(name);
  float* to = values<float>(out, "out", "float32", {-1});
  py::gil_scoped_release release;
  k->coefficients(Stream(seed, unit, index), law.law, out.numel(), to);
}

// One parameter of each combination: out [K, *a.shape] from a and others [steps, *a.shape].
void mix(const std::string& name, const std::vector<HeldLaw>& held, uint64_t seed, uint32_t unit,
         const std::vector<uint64_t>& index, const std::string& shared_by, int64_t draws, const Tensor& a,
         const Tensor& others, const Tensor& out, int threads) {
  const Kernels* k = level(name);
  const std::vector<Law> laws = laws_of(held);
  const int sharing = entry("Sharing", shared_by), dtype = entry("Dtype", out.dtype);
  if (dtype != kFloat32 && dtype != kBfloat16) throw std::invalid_argument("out: neither float32 nor bfloat16");
  std::vector<int64_t> many = a.shape, results = a.shape;
  many.insert(many.begin(), (int64_t)laws.size()), results.insert(results.begin(), (int64_t)index.size());
  const float* first = any_values<const float>(a, "a", "float32");
  const float* rest = values<const float>(others, "others", "float32", many);
  char* to = values<char>(out, "out", out.dtype, results);
  const int64_t rows = a.shape.empty() ? 1 : a.shape[0], elements = a.numel();
  if (!elements) return;
  if (draws < (sharing == kElement ? elements : sharing == kRow ? rows : 1))
    throw std::invalid_argument("a parameter with fewer draws than it uses");
  py::gil_scoped_release release;
  const int64_t step = elements * out.item, shared = sharing == kElement ? 0 : draws;
  ThreadPool& pool = ThreadPool::get();
  std::lock_guard<std::mutex> lock(pool.in_use());
  const ThreadPool::Work one = [&](int64_t i, int) {
    std::vector<float> lam(shared * laws.size()), scratch(laws.size() > 1 ? elements : 0);
    std::vector<Source> sources;
    for (size_t j = 0; j < laws.size(); ++j) {
      sources.push_back({Stream(seed, step_unit(unit, j), index[i]), &laws[j], lam.data() + j * shared});
      if (shared) k->coefficients(sources[j].stream, laws[j], shared, lam.data() + j * shared);
    }
    k->mix(sources.data(), (int64_t)laws.size(), sharing, first, rest, rows, elements / rows,
           dtype == kFloat32 ? kFloat : kHalf, scratch.data(), to + i * step);
  };
  if (threads > 1 && (double)elements * index.size() > 1e5) {
    pool.resize(threads);
    return pool.run((int64_t)index.size(), one);
  }
  for (size_t i = 0; i < index.size(); ++i) one((int64_t)i, 0);
}

// The columns int64 [count, n] of largest similarity for the rows of each matrix of similarity [count, n, n].
void match(const std::string& name, const Tensor& similarity, const Tensor& columns) {
  const Kernels* k = level(name);
  const bool wide = similarity.dtype == "float64";
  if (similarity.shape.size() != 3) throw std::invalid_argument("similarity: not [count, n, n]");
  const int64_t count = similarity.shape[0], n = similarity.shape[1];
  const void* from = values<const char>(similarity, "similarity", wide ? "float64" : "float32", {count, n, n});
  int64_t* to = values<int64_t>(columns, "columns", "int64", {count, n});
  py::gil_scoped_release release;
  std::vector<char> scratch(assignment_scratch(n, wide));
  k->match({from, wide, count, n, scratch.data(), to});
}

// Adds a parameter in one form. `outputs` rows of `inner` entries from row `first` on; `place` and `inverse` say
// where entries lie in the packed form. The tensors are kept.
int add(Held& h, const py::object& a, const py::object& others, const std::string& form, const std::string& dtype,
        const std::string& sharing, uint32_t unit, int64_t draws, int64_t offset, int64_t outputs, int64_t inner,
        int64_t first, std::vector<int32_t> place, std::vector<int32_t> inverse) {
  const Tensor one = a.cast<Tensor>(), rest = others.cast<Tensor>();
  std::vector<int64_t> many = one.shape;
  many.insert(many.begin(), (int64_t)h.steps);
  Parameter p{};
  p.packed.outputs = outputs, p.packed.inner = inner, p.packed.first = first;
  p.packed.rows = (int64_t)inverse.size();
  p.packed.dtype = entry("Dtype", dtype), p.packed.sharing = entry("Sharing", sharing), p.packed.unit = unit;
  p.form = entry("Form", form), p.elements = one.numel(), p.offset = offset, p.draws = draws;
  p.a = any_values<const float>(one, "a", "float32");
  p.b = values<const float>(rest, "others", "float32", many);
  p.place = std::move(place), p.inverse = std::move(inverse);
  h.kept.push_back(a), h.kept.push_back(others);
  py::gil_scoped_release release;
  return h.engine.add(std::move(p));
}

void finish(Held& h, int64_t weight_bytes, const std::vector<Given>& setup, const py::object& constants) {
  const Tensor block = constants.cast<Tensor>();
  h.engine.finish(weight_bytes, instructions(setup), any_values<const char>(block, "constants", "uint8"),
                  block.nbytes());
  h.kept.push_back(constants);
}

// (channels, per_sample, statistics, eps, gamma, beta, scale, shift) of a norm whose moments are collected
typedef std::tuple<int64_t, int64_t, int64_t, double, py::object, py::object, py::object, py::object> Norm;

int add_pass(Held& h, int64_t samples, int64_t block, const std::vector<Given>& whole, std::vector<int64_t> ends,
             const std::vector<Given>& last, std::vector<int64_t> last_ends, const std::vector<Norm>& norms,
             int64_t arena, int64_t lasting, std::vector<std::string> inputs, const std::string& output) {
  Pass p{samples,
         block,
         {instructions(whole), std::move(ends)},
         {instructions(last), std::move(last_ends)},
         {},
         arena,
         lasting,
         output,
         std::move(inputs),
         {},
         0};
  for (const auto& [channels, per_sample, statistics, eps, gamma, beta, scale, shift] : norms)
    p.collected.push_back(
        {channels, per_sample, statistics, eps, address(gamma), address(beta), address(scale), address(shift)});
  return h.engine.add_pass(std::move(p));
}

void run(Held& h, const std::vector<uint64_t>& index, int number, const std::vector<Tensor>& inputs,
         const std::vector<bool>& own_inputs, const std::optional<Tensor>& statistics,
         const std::optional<Tensor>& sums, const std::optional<Tensor>& outputs, int threads) {
  const int64_t count = (int64_t)index.size();
  const Pass& pass = h.engine.pass(number);
  const Engine::Data data = addresses(inputs, pass);
  std::vector<int64_t> bytes = sizes(inputs);
  std::vector<int64_t> steps(inputs.size(), 0);
  if (own_inputs.size() > inputs.size()) throw std::invalid_argument("own_inputs: more than inputs");
  for (size_t i = 0; i < own_inputs.size(); ++i) {
    if (!own_inputs[i]) continue;
    if (inputs[i].shape.empty() || inputs[i].shape[0] != count)
      throw std::invalid_argument("inputs: not one for each combination");
    steps[i] = bytes[i] = count ? bytes[i] / count : 0;
  }
  const float* own = record(statistics, count);
  double* to = sums ? values<double>(*sums, "sums", "float64", {count, 2}) : nullptr;
  char* results = nullptr;
  if (outputs) {
    if (outputs->shape.empty() || outputs->shape[0] != count)
      throw std::invalid_argument("outputs: not one for each combination");
    results = any_values<char>(*outputs, "outputs", pass.output);
  }
  py::gil_scoped_release release;
  h.engine.run(index.data(), count, number, data, bytes, steps, own, floats_of(statistics), to, results,
               outputs && count ? outputs->nbytes() / count : 0, threads);
}

void decide(Held& h, const std::vector<uint64_t>& index, int whole, int rest, const std::vector<Tensor>& inputs,
            const std::optional<Tensor>& statistics, const Question& question, const Tensor& answers,
            const Tensor& taken, const Tensor& means, int threads) {
  const int64_t count = (int64_t)index.size();
  const Engine::Data data = addresses(inputs, h.engine.pass(whole));
  std::vector<int64_t> bytes;
  for (const Tensor& t : inputs) {
    if (t.shape.empty() || t.shape[0] != question.samples)
      throw std::invalid_argument("inputs: not as many samples as the question has");
    bytes.push_back(t.nbytes() / std::max<int64_t>(1, question.samples));
  }
  const float* own = record(statistics, count);
  int32_t* answer = values<int32_t>(answers, "answers", "int32", {count});
  int32_t* number = values<int32_t>(taken, "taken", "int32", {count});
  double* mean = values<double>(means, "means", "float64", {count});
  py::gil_scoped_release release;
  h.engine.decide(index.data(), count, whole, rest, data, bytes, own, floats_of(statistics), question, answer, number,
                  mean, threads);
}

void collect(Held& h, const std::vector<uint64_t>& index, const std::vector<int>& passes,
             const std::vector<std::vector<Tensor>>& batches, const Tensor& statistics, int threads) {
  if (passes.size() != batches.size()) throw std::invalid_argument("calibration passes without batches");
  const int64_t count = (int64_t)index.size();
  float* to = values<float>(statistics, "statistics", "float32", {count, -1});
  std::vector<Engine::Data> data;
  std::vector<std::vector<int64_t>> bytes;
  for (size_t i = 0; i < passes.size(); ++i) {
    data.push_back(addresses(batches[i], h.engine.pass(passes[i])));
    bytes.push_back(sizes(batches[i]));
  }
  py::gil_scoped_release release;
  h.engine.collect(index.data(), count, passes, data, bytes, statistics.shape[1], to, threads);
}

// Weights of combinations, and nothing else: to measure it.
void generate(Held& h, const std::vector<uint64_t>& index, int threads) {
  py::gil_scoped_release release;
  h.engine.collect(index.data(), (int64_t)index.size(), {}, {}, {}, 0, nullptr, threads);
}

// The fields of all operations: name → [(field, kind, how many numbers, enumeration)].
py::dict described() {
  const char* kinds[] = {"operand", "optional", "number", "flag", "choice", "array", "list", "factor"};
  py::dict all;
  for (const Schema& s : operations()) {
    py::list fields;
    for (const Field& f : s.fields) fields.append(py::make_tuple(f.name, kinds[f.kind], f.count, f.enumeration));
    all[s.name] = fields;
  }
  return all;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "fastcomb's compiled engine; fastcomb.backends.native says what goes in.";
  m.def("levels", &levels, "Instruction levels that this processor has, best first.");
  m.def("width", [](const std::string& name) { return level(name)->width; }, "Lanes of a level's vectors.");
  m.def(
      "pairs", [](const std::string& name) { return level(name)->pairs; },
      "Whether a level multiplies pairs of bfloat16.");
  m.def("operations", &described, "Operations and their fields, as csrc/ops.def lists them.");
  m.def(
      "enumerations",
      [] {
        py::dict all;
        for (const Enumeration& e : enumerations()) {
          py::list entries;
          for (const char* name : e.entries) entries.append(name);
          all[e.name] = entries;
        }
        return all;
      },
      "Enumerations and their entries, as csrc/ops.def lists them.");
  bind_law(m);

  py::class_<Question>(m, "Question")
      .def(py::init([](const Tensor& low, const Tensor& width, double low_sum, double below, double above,
                       double capital, double sign, bool correct, uint64_t seed, double expected, double variance) {
             const double* bounds = values<const double>(low, "low", "float64", {-1});
             const double* widths = values<const double>(width, "width", "float64", low.shape);
             return Question{low.numel(), bounds, widths,  low_sum, below,    above,
                             capital,     sign,   correct, seed,    expected, variance};
           }),
           py::kw_only(), py::arg("low"), py::arg("width"), py::arg("low_sum"), py::arg("below"), py::arg("above"),
           py::arg("capital"), py::arg("sign"), py::arg("correct"), py::arg("seed"), py::arg("expected"),
           py::arg("variance"), py::keep_alive<1, 2>(), py::keep_alive<1, 3>());

  m.def("coefficients", &coefficients, py::kw_only(), py::arg("level"), py::arg("law"), py::arg("seed"),
        py::arg("unit"), py::arg("index"), py::arg("out"));
  m.def("mix", &mix, py::kw_only(), py::arg("level"), py::arg("laws"), py::arg("seed"), py::arg("unit"),
        py::arg("index"), py::arg("sharing"), py::arg("draws"), py::arg("a"), py::arg("others"), py::arg("out"),
        py::arg("threads"));

  m.def("match", &match, py::kw_only(), py::arg("level"), py::arg("similarity"), py::arg("columns"));

  py::class_<Held>(m, "Engine")
      .def(py::init([](const std::string& name, uint64_t seed, const py::list& held) {
             std::vector<Law> laws = laws_of(held.cast<std::vector<HeldLaw>>());
             const size_t steps = laws.size();
             return std::unique_ptr<Held>(new Held{Engine(level(name), seed, std::move(laws)), steps, {held}});
           }),
           py::kw_only(), py::arg("level"), py::arg("seed"), py::arg("laws"))
      .def("add", &add, py::kw_only(), py::arg("a"), py::arg("others"), py::arg("form"), py::arg("dtype"),
           py::arg("sharing"), py::arg("unit"), py::arg("draws"), py::arg("offset"), py::arg("outputs"),
           py::arg("inner"), py::arg("first"), py::arg("place"), py::arg("inverse"))
      .def("finish", &finish, py::kw_only(), py::arg("weight_bytes"), py::arg("setup"), py::arg("constants"))
      .def("add_pass", &add_pass, py::kw_only(), py::arg("samples"), py::arg("block"), py::arg("whole"),
           py::arg("ends"), py::arg("last"), py::arg("last_ends"), py::arg("norms"), py::arg("arena"),
           py::arg("lasting"), py::arg("inputs"), py::arg("output"))
      .def("run", &run, py::kw_only(), py::arg("index"), py::arg("number"), py::arg("inputs"),
           py::arg("own_inputs") = std::vector<bool>(), py::arg("statistics") = py::none(),
           py::arg("sums") = py::none(), py::arg("outputs") = py::none(), py::arg("threads"))
      .def("decide", &decide, py::kw_only(), py::arg("index"), py::arg("whole"), py::arg("rest"), py::arg("inputs"),
           py::arg("statistics"), py::arg("question"), py::arg("answers"), py::arg("taken"), py::arg("means"),
           py::arg("threads"))
      .def("collect", &collect, py::kw_only(), py::arg("index"), py::arg("passes"), py::arg("batches"),
           py::arg("statistics"), py::arg("threads"))
      .def("generate", &generate, py::kw_only(), py::arg("index"), py::arg("threads"))
      .def_property_readonly("bytes", [](const Held& h) { return h.engine.bytes(); });

  py::module_ host = m.def_submodule("host", "The kernels for CUDA devices, on the host: for tests.");
  host.attr("Law") = m.attr("Law");
  cuda::bind(host);
}
