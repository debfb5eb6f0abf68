// The engine for Python: raw addresses, shapes and lists of numbers.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda/bind.h"
#include "cpu/engine.h"

namespace py = pybind11;
using namespace fastcomb;

namespace {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

typedef std::tuple<int, int64_t, int64_t> Place;  // space, offset, step

Address address(const Place& p) { return {std::get<0>(p), std::get<1>(p), std::get<2>(p)}; }

typedef std::tuple<int, int, std::vector<Place>, std::vector<int64_t>, std::vector<double>> Given;

std::vector<Instruction> instructions(const std::vector<Given>& given) {
  std::vector<Instruction> result;
  for (const auto& [op, storage, places, numbers, factors] : given) {
    Instruction i{op, storage, {}, numbers, factors};
    for (const Place& p : places) i.at.push_back(address(p));
    result.push_back(std::move(i));
  }
  return result;
}

const Kernels* level(const std::string& name) {
  const Kernels* found = find_level(name);
  if (!found) throw std::invalid_argument("instruction level " + name + " is not available on this processor");
  return found;
}

Law law(int kind, int bits, bool ends, float low, float range, uint32_t threshold, uintptr_t table) {
  return Law{kind, bits, ends, low, range, threshold, pointer<const float>(table)};
}

Engine::Data data(const std::vector<uintptr_t>& inputs) {
  Engine::Data d;
  for (uintptr_t input : inputs) d.push_back(pointer<const char>(input));
  return d;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "fastcomb's compiled engine; fastcomb.backends.native says what goes in.";
  m.def("levels", &levels, "Instruction levels that this processor has, best first.");
  m.def(
      "width", [](const std::string& name) { return level(name)->width; }, "Lanes of a level's vectors.");
  m.def(
      "pairs", [](const std::string& name) { return level(name)->pairs; },
      "Whether a level multiplies pairs of bfloat16.");

  py::class_<Law>(m, "Law").def(py::init(&law));
  py::class_<Question>(m, "Question")
      .def(py::init([](int64_t samples, uintptr_t low, uintptr_t width, double low_sum, double below, double above,
                       double capital, double sign, bool correct, uint64_t seed, double expected, double variance) {
        return Question{samples, pointer<const double>(low), pointer<const double>(width), low_sum, below, above,
                        capital, sign, correct, seed, expected, variance};
      }));

  m.def("coefficients", [](const std::string& name, const Law& law, uint64_t seed, uint32_t unit, uint64_t index,
                           int64_t count, uintptr_t out) {
    py::gil_scoped_release release;
    level(name)->coefficients(Stream(seed, unit, index), law, count, pointer<float>(out));
  });
  // One parameter [rows, inner] of each combination, in its own layout; b holds a network for each law.
  m.def("mix", [](const std::string& name, const std::vector<Law>& laws, uint64_t seed, uint32_t unit,
                  const std::vector<uint64_t>& index, int sharing, int64_t draws, uintptr_t a, uintptr_t b, int64_t rows,
                  int64_t inner, int storage, uintptr_t out, int threads) {
    const Kernels* k = level(name);
    py::gil_scoped_release release;
    const int64_t step = rows * inner * (storage == kFloat32 ? 4 : 2);
    Pool& pool = Pool::get();
    std::lock_guard<std::mutex> lock(pool.in_use());
    const Pool::Work one = [&](int64_t i, int) {
      const int64_t shared = sharing == kElement ? 0 : draws;
      std::vector<float> lam(shared * laws.size()), scratch(laws.size() > 1 ? rows * inner : 0);
      std::vector<Source> sources;
      for (size_t j = 0; j < laws.size(); ++j) {
        sources.push_back({Stream(seed, step_unit(unit, j), index[i]), &laws[j], lam.data() + j * shared});
        if (shared) k->coefficients(sources[j].stream, laws[j], shared, lam.data() + j * shared);
      }
      k->mix(sources.data(), (int64_t)laws.size(), sharing, pointer<const float>(a), pointer<const float>(b), rows,
             inner, storage == kFloat32 ? kFloat : kHalf, scratch.data(), pointer<char>(out) + i * step);
    };
    if (threads > 1 && (double)rows * inner * index.size() > 1e5) {
      pool.resize(threads);
      return pool.run(index.size(), one);
    }
    for (size_t i = 0; i < index.size(); ++i) one(i, 0);
  });

  py::class_<Engine>(m, "Engine")
      .def(py::init([](const std::string& name, uint64_t seed, std::vector<Law> laws) {
        return std::make_unique<Engine>(level(name), seed, std::move(laws));
      }))
      .def("add",
           [](Engine& e, uintptr_t a, uintptr_t b, int64_t elements, int64_t outputs, int64_t inner, int64_t first,
              int form, int storage,
              int sharing, uint32_t unit, int64_t draws, int64_t offset, std::vector<int32_t> place,
              std::vector<int32_t> inverse) {
             Parameter p{};
             p.packed.outputs = outputs, p.packed.inner = inner, p.packed.first = first;
             p.packed.rows = (int64_t)inverse.size();
             p.packed.storage = storage, p.packed.sharing = sharing, p.packed.unit = unit;
             p.form = form, p.elements = elements, p.offset = offset, p.draws = draws;
             p.a = pointer<const float>(a), p.b = pointer<const float>(b);
             p.place = std::move(place), p.inverse = std::move(inverse);
             py::gil_scoped_release release;
             return e.add(std::move(p));
           })
      .def("finish",
           [](Engine& e, int64_t weight_bytes, const std::vector<Given>& setup, uintptr_t constants, int64_t bytes) {
             e.finish(weight_bytes, instructions(setup), pointer<const char>(constants), bytes);
           })
      .def("add_pass",
           [](Engine& e, int64_t samples, int64_t block, const std::vector<Given>& whole,
              const std::vector<Given>& last, std::vector<int64_t> ends,
              const std::vector<std::tuple<int64_t, int64_t, int64_t, double, Place, Place, Place, Place>>& collected,
              int64_t arena, int64_t lasting) {
             Pass p{samples, block, instructions(whole), instructions(last), std::move(ends), {}, arena, lasting, {}, 0};
             for (const auto& [channels, per_sample, statistics, eps, gamma, beta, scale, shift] : collected)
               p.collected.push_back({channels, per_sample, statistics, eps, address(gamma), address(beta),
                                      address(scale), address(shift)});
             return e.add_pass(std::move(p));
           })
      .def("run",
           [](Engine& e, const std::vector<uint64_t>& index, int pass, const std::vector<uintptr_t>& inputs,
              const std::vector<int64_t>& input_bytes, int64_t input_step, uintptr_t statistics,
              int64_t statistics_floats, uintptr_t sums, uintptr_t outputs, int64_t output_bytes, int threads) {
             py::gil_scoped_release release;
             e.run(index.data(), (int64_t)index.size(), pass, data(inputs), input_bytes, input_step,
                   pointer<const float>(statistics), statistics_floats, pointer<double>(sums), pointer<char>(outputs), output_bytes, threads);
           })
      .def("decide",
           [](Engine& e, const std::vector<uint64_t>& index, int whole, int rest, const std::vector<uintptr_t>& inputs,
              const std::vector<int64_t>& bytes, uintptr_t statistics, int64_t statistics_floats,
              const Question& question, uintptr_t answers, uintptr_t taken, uintptr_t means, int threads) {
             py::gil_scoped_release release;
             e.decide(index.data(), (int64_t)index.size(), whole, rest, data(inputs), bytes,
                      pointer<const float>(statistics), statistics_floats, question, pointer<int32_t>(answers),
                      pointer<int32_t>(taken), pointer<double>(means), threads);
           })
      .def("collect",
           [](Engine& e, const std::vector<uint64_t>& index, const std::vector<int>& passes,
              const std::vector<std::vector<uintptr_t>>& inputs,
              const std::vector<std::vector<int64_t>>& input_bytes, int64_t floats, uintptr_t statistics, int threads) {
             py::gil_scoped_release release;
             std::vector<Engine::Data> all;
             for (const auto& i : inputs) all.push_back(data(i));
             e.collect(index.data(), (int64_t)index.size(), passes, all, input_bytes, floats, pointer<float>(statistics), threads);
           })
      .def_property_readonly("bytes", &Engine::bytes);

  py::module_ host = m.def_submodule("host", "The kernels for CUDA devices, on the host: for tests.");
  cuda::bind(host);
}
