// A law for Python, with the table that it points into.
#pragma once

#include <pybind11/pybind11.h>

#include "law.h"
#include "schema.h"
#include "tensor.h"

namespace fastcomb {

struct HeldLaw {
  Law law;
  std::string device;
  pybind11::object table;
};

inline std::vector<Law> laws_of(const std::vector<HeldLaw>& held) {
  std::vector<Law> laws;
  for (const HeldLaw& one : held) laws.push_back(one.law);
  return laws;
}

inline void bind_law(pybind11::module_& m) {
  namespace py = pybind11;
  py::class_<HeldLaw>(m, "Law", py::module_local())
      .def(py::init([](const std::string& kind, int bits, bool ends, float low, float range, uint32_t threshold,
                       const py::object& table) {
             if (bits != 16 && bits != 32) throw std::invalid_argument("bits: 16 or 32");
             const Tensor t = table.cast<Tensor>();
             const int64_t draws = bits == 16 ? 1 << 16 : 1 << 23;
             const float* values_of = values<const float>(t, "table", "float32", {draws}, t.device);
             return HeldLaw{Law{entry("LawKind", kind), bits, ends, low, range, threshold, values_of}, t.device, table};
           }),
           py::kw_only(), py::arg("kind"), py::arg("bits"), py::arg("ends"), py::arg("low"), py::arg("range"),
           py::arg("threshold"), py::arg("table"));
}

}  // namespace fastcomb
