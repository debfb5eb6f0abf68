// Python's view of the kernels, the same on a device and on the host.
#pragma once

#include <pybind11/pybind11.h>

namespace fastcomb::cuda {

void bind(pybind11::module_& m);

}  // namespace fastcomb::cuda
