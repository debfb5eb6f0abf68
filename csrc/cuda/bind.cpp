#include "bind.h"

#include <pybind11/stl.h>

#include <vector>

#include "launch.h"
#include "mix.h"

namespace py = pybind11;

namespace fastcomb::cuda {

// (kind, bits, ends, low, range, threshold, table)
using LawNumbers = std::tuple<int, int, bool, float, float, uint32_t, uintptr_t>;
// (a, others, unit, count, row, sharing); a is 0 where there is no such parameter
using MixedNumbers = std::tuple<uintptr_t, uintptr_t, uint32_t, uint32_t, uint32_t, int>;

static Mixing mixing(uint64_t seed, const std::vector<LawNumbers>& laws) {
  if (laws.empty() || laws.size() > kMaxSteps) throw std::invalid_argument("too many networks");
  Mixing found{seed, (int)laws.size(), {}};
  for (size_t s = 0; s < laws.size(); ++s) {
    const auto& [kind, bits, ends, low, range, threshold, table] = laws[s];
    found.laws[s] = Law{kind, bits, ends, low, range, threshold, (const float*)table};
  }
  return found;
}

static Mixed parameter(const MixedNumbers& numbers) {
  const auto& [a, others, unit, count, row, sharing] = numbers;
  return Mixed{(const float*)a, (const float*)others, unit, count, row, sharing};
}

// A network put together layer by layer.
struct Plan {
  Network net{};
  int number, widest = 0;
  bool saves = false;

  Plan(int number, uint64_t seed, const std::vector<LawNumbers>& laws) : number(number) {
    net.mixing = mixing(seed, laws);
  }

  void add(const MixedNumbers& weight, const MixedNumbers& bias, const MixedNumbers& gamma, const MixedNumbers& beta,
           int inputs, int outputs, int steps, int tiles, int norm, float eps, int activation, bool save, bool adds) {
    if (net.layers == kMaxLayers) throw std::invalid_argument("too many layers");
    Layer& layer = net.layer[net.layers++];
    layer.weight = parameter(weight), layer.bias = parameter(bias);
    layer.gamma = parameter(gamma), layer.beta = parameter(beta);
    layer.inputs = inputs, layer.outputs = outputs, layer.steps = steps, layer.tiles = tiles;
    layer.norm = norm, layer.eps = eps, layer.activation = activation, layer.save = save, layer.add = adds;
    layer.weight_at = net.weight_bytes, layer.vector_at = net.vectors;
    net.weight_bytes += (uint32_t)steps * tiles * 32 * 8;  // two registers for each lane
    net.vectors += kVectors * 8 * tiles;
    widest = std::max(widest, tiles);
    saves |= save;
  }

  // Bytes of shared memory, with room for the sums of the warps.
  int shared() const { return net.weight_bytes + net.vectors * 4 + 256; }

  // statistics: for each layer the addresses of means and variances, and the entries from one combination's to
  // the next
  void run(uintptr_t x, uintptr_t targets, uintptr_t index, uintptr_t sums, int samples, int combinations, int loss,
           int classes, const std::vector<std::tuple<uintptr_t, uintptr_t, int64_t>>& statistics, uintptr_t stream) {
    Network now = net;
    for (int l = 0; l < now.layers; ++l) {
      const auto& [mean, variance, apart] = statistics.at(l);
      now.layer[l].mean = (const float*)mean, now.layer[l].variance = (const float*)variance;
      now.layer[l].apart = apart;
    }
    now.x = (const void*)x, now.targets = (const void*)targets, now.index = (const int64_t*)index;
    now.sums = (double*)sums, now.samples = samples, now.tiles = (samples + 15) / 16;
    now.combinations = combinations, now.loss = loss, now.classes = classes;
    run_network(now, number, widest, saves, stream);
  }
};

static void mix_into(int number, uint64_t seed, const std::vector<LawNumbers>& laws, const MixedNumbers& numbers,
                     uintptr_t index, int combinations, uintptr_t out, uintptr_t stream) {
  run_mix(Job{mixing(seed, laws), parameter(numbers), (const int64_t*)index, combinations, (void*)out}, number, stream);
}

void bind(py::module_& m) {
  py::class_<Plan>(m, "Plan", py::module_local())
      .def(py::init<int, uint64_t, const std::vector<LawNumbers>&>())
      .def("add", &Plan::add)
      .def("shared", &Plan::shared)
      .def("run", &Plan::run, py::call_guard<py::gil_scoped_release>());
  m.def("mix", &mix_into, py::call_guard<py::gil_scoped_release>());
  m.def("shared_memory", &shared_memory);
  m.attr("max_layers") = kMaxLayers;
  m.attr("max_steps") = kMaxSteps;
}

}  // namespace fastcomb::cuda
