#include "bind.h"

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "Kernels for CUDA devices.";
  fastcomb::cuda::bind(m);
}
