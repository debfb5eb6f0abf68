// Python's view of the kernels: tensors and names cross, no addresses and no numbers of enumerations.
#include "bind.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../law_binding.h"
#include "../tensor.h"
#include "launch.h"
#include "mix.h"

namespace py = pybind11;

namespace fastcomb::cuda {

// A mixed parameter for Python, with the tensors that it points into: a and others [steps, *a.shape], its unit of the
// stream, how many draws it uses, and which entries share one.
struct HeldMixed {
  Mixed mixed;
  std::string device;
  size_t steps;
  py::object a, others;
};

static HeldMixed held_mixed(const py::object& a, const py::object& others, uint32_t unit, const std::string& sharing) {
  const Tensor first = a.cast<Tensor>(), rest = others.cast<Tensor>();
  std::vector<int64_t> many = first.shape;
  if (rest.shape.empty()) throw std::invalid_argument("others: no networks");
  many.insert(many.begin(), rest.shape[0]);
  const int64_t count = first.numel(), rows = first.shape.empty() ? 1 : first.shape[0];
  if (count >= INT64_C(1) << 32) throw std::invalid_argument("a: a parameter of 2**32 entries or more");
  const uint32_t row = (uint32_t)std::max<int64_t>(rows ? count / rows : 0, 1);
  const Mixed mixed{any_values<const float>(first, "a", "float32", first.device),
                    values<const float>(rest, "others", "float32", many, first.device),
                    unit,
                    (uint32_t)count,
                    row,
                    entry("Sharing", sharing)};
  return {mixed, first.device, (size_t)rest.shape[0], a, others};
}

static Mixing mixing(uint64_t seed, const std::vector<HeldLaw>& held) {
  if (held.empty() || held.size() > kMaxSteps) throw std::invalid_argument("laws: too many networks");
  Mixing found{seed, (int)held.size(), {}};
  for (size_t step = 0; step < held.size(); ++step) found.laws[step] = held[step].law;
  return found;
}

// The dtype's number; throws for one that no kernel computes in.
static int compute(const std::string& name) {
  const int dtype = entry("Dtype", name);
  if (dtype != kFloat32 && dtype != kBfloat16 && dtype != kFloat16)
    throw std::invalid_argument("dtype: no kernels for " + name);
  return dtype;
}

static int activation_of(const std::string& name) {
  const int function = entry("Function", name);
  for (const int known : {kIdentity, kRelu, kGelu, kGeluTanh, kSilu})
    if (function == known) return function;
  throw std::invalid_argument("activation: no kernels for " + name);
}

// A network put together layer by layer.
struct Plan {
  Network net{};
  std::string dtype, device;
  int widest = 0;
  bool saves = false;
  std::vector<HeldLaw> laws;
  std::vector<HeldMixed> parameters;

  Plan(const std::string& dtype, uint64_t seed, std::vector<HeldLaw> given) : dtype(dtype), laws(std::move(given)) {
    compute(dtype);
    net.mixing = mixing(seed, laws);
  }

  Mixed kept(const std::optional<HeldMixed>& parameter, int64_t count, const char* name) {
    if (!parameter) return Mixed{nullptr, nullptr, 0, 0, 1, 0};
    if (parameter->steps != laws.size() || (int64_t)parameter->mixed.count != count)
      throw std::invalid_argument(std::string(name) + ": another size than the layer's");
    if (device.empty()) device = parameter->device;
    if (device != parameter->device) throw std::invalid_argument(std::string(name) + ": on another device");
    parameters.push_back(*parameter);
    return parameter->mixed;
  }

  void add(const std::optional<HeldMixed>& weight, const std::optional<HeldMixed>& bias,
           const std::optional<HeldMixed>& gamma, const std::optional<HeldMixed>& beta, int inputs, int outputs,
           int steps, int tiles, const std::string& norm, float eps, const std::string& activation, bool save,
           bool adds) {
    if (net.layers == kMaxLayers) throw std::invalid_argument("too many layers");
    if (inputs < 1 || outputs < 1 || steps < 1 || tiles < 1 || outputs > tiles * 8)
      throw std::invalid_argument("a layer whose tiles do not hold it");
    Layer layer{};
    if (!weight) throw std::invalid_argument("weight: missing");
    layer.weight = kept(weight, (int64_t)inputs * outputs, "weight"), layer.bias = kept(bias, outputs, "bias");
    layer.gamma = kept(gamma, outputs, "gamma"), layer.beta = kept(beta, outputs, "beta");
    layer.inputs = inputs, layer.outputs = outputs, layer.steps = steps, layer.tiles = tiles;
    layer.norm = entry("NormKind", norm), layer.eps = eps, layer.activation = activation_of(activation);
    layer.save = save, layer.add = adds;
    layer.weight_at = net.weight_bytes, layer.vector_at = net.vectors;
    net.layer[net.layers++] = layer;
    net.weight_bytes += (uint32_t)steps * tiles * 32 * 8;  // two registers for each lane
    net.vectors += kVectors * 8 * tiles;
    widest = std::max(widest, tiles);
    saves |= save;
  }

  // Bytes of shared memory, with room for the sums of the warps.
  int shared() const { return (int)(net.weight_bytes + net.vectors * 4 + 256); }

  // x: samples in the order of the matrix instructions, [tiles of 16, …]; index int64 [K]; sums float64 [2, K];
  // statistics: (mean, variance) of each layer, [outputs] or [K, outputs], or None.
  void run(const Tensor& x, const Tensor& targets, const Tensor& index, const Tensor& sums, const std::string& loss,
           const std::vector<std::optional<std::pair<Tensor, Tensor>>>& statistics, uintptr_t stream) {
    Network now = net;
    if (!now.layers) throw std::invalid_argument("a network without layers");
    if (statistics.size() != (size_t)now.layers)
      throw std::invalid_argument("statistics: not one entry for each layer");
    const int64_t combinations = index.numel();
    const Layer &bottom = now.layer[0], &top = now.layer[now.layers - 1];
    for (int l = 0; l < now.layers; ++l) {
      Layer& layer = now.layer[l];
      if (!statistics[l]) {
        if (layer.norm == kBatchNorm) throw std::invalid_argument("statistics: missing");
        continue;
      }
      const auto& [mean, variance] = *statistics[l];
      std::vector<int64_t> shape{layer.outputs};
      if (mean.shape.size() == 2) shape.insert(shape.begin(), combinations);
      layer.mean = values<const float>(mean, "mean", "float32", shape, device);
      layer.variance = values<const float>(variance, "variance", "float32", shape, device);
      layer.apart = shape.size() == 2 ? layer.outputs : 0;
    }
    now.loss = entry("LossKind", loss), now.classes = top.outputs;
    const int64_t samples = targets.shape.empty() ? 0 : targets.shape[0], tiles = (samples + 15) / 16;
    if (samples < 1 || samples > INT32_MAX - 16 || combinations > INT32_MAX)
      throw std::invalid_argument("targets, index: too few or too many");
    now.targets = now.loss == kMse
                      ? (const void*)values<const float>(targets, "targets", "float32", {samples, now.classes}, device)
                      : (const void*)values<const int64_t>(targets, "targets", "int64", {samples}, device);
    now.x = any_values<const void>(x, "x", dtype, device);
    if (x.nbytes() < tiles * bottom.steps * 32 * 16) throw std::invalid_argument("x: fewer samples than targets");
    now.index = values<const int64_t>(index, "index", "int64", {-1}, device);
    now.sums = values<double>(sums, "sums", "float64", {2, combinations}, device);
    now.samples = (int)samples, now.tiles = (int)tiles, now.combinations = (int)combinations;
    py::gil_scoped_release release;
    run_network(now, compute(dtype), widest, saves, stream);
  }
};

static void mix_into(const std::vector<HeldLaw>& laws, uint64_t seed, const HeldMixed& parameter, const Tensor& index,
                     const Tensor& out, uintptr_t stream) {
  if (parameter.steps != laws.size()) throw std::invalid_argument("laws: not one for each network");
  const int64_t combinations = index.numel();
  if (combinations > INT32_MAX) throw std::invalid_argument("index: too many");
  if (out.numel() != combinations * (int64_t)parameter.mixed.count)
    throw std::invalid_argument("out: not one parameter for each combination");
  const Job job{mixing(seed, laws), parameter.mixed,
                values<const int64_t>(index, "index", "int64", {-1}, parameter.device), (int)combinations,
                any_values<void>(out, "out", out.dtype, parameter.device)};
  const int dtype = compute(out.dtype);
  py::gil_scoped_release release;
  run_mix(job, dtype, stream);
}

void bind(py::module_& m) {
  if (!py::hasattr(m, "Law")) bind_law(m);
  py::class_<HeldMixed>(m, "Mixed", py::module_local())
      .def(py::init(&held_mixed), py::kw_only(), py::arg("a"), py::arg("others"), py::arg("unit"), py::arg("sharing"));
  py::class_<Plan>(m, "Plan", py::module_local())
      .def(py::init<const std::string&, uint64_t, std::vector<HeldLaw>>(), py::kw_only(), py::arg("dtype"),
           py::arg("seed"), py::arg("laws"))
      .def("add", &Plan::add, py::kw_only(), py::arg("weight"), py::arg("bias"), py::arg("gamma"), py::arg("beta"),
           py::arg("inputs"), py::arg("outputs"), py::arg("steps"), py::arg("tiles"), py::arg("norm"), py::arg("eps"),
           py::arg("activation"), py::arg("save"), py::arg("adds"))
      .def("shared", &Plan::shared)
      .def("run", &Plan::run, py::kw_only(), py::arg("x"), py::arg("targets"), py::arg("index"), py::arg("sums"),
           py::arg("loss"), py::arg("statistics"), py::arg("stream"));
  m.def("mix", &mix_into, py::kw_only(), py::arg("laws"), py::arg("seed"), py::arg("parameter"), py::arg("index"),
        py::arg("out"), py::arg("stream"));
  m.def("shared_memory", &shared_memory);
  m.attr("max_layers") = kMaxLayers;
  m.attr("max_steps") = kMaxSteps;
}

}  // namespace fastcomb::cuda
