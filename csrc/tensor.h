// A torch tensor as the bindings see it, without torch's headers: what they check before they use its address.
#pragma once

#include <pybind11/pybind11.h>
#include <stdint.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace fastcomb {

struct Tensor {
  uintptr_t address;
  std::string dtype;   // "float32", …
  std::string device;  // "cpu", "cuda:0"
  std::vector<int64_t> shape;
  bool contiguous;
  int64_t item;  // bytes of an element

  int64_t numel() const {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    return count;
  }
  int64_t nbytes() const { return numel() * item; }
};

inline std::string shown(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + (shape[i] < 0 ? "_" : std::to_string(shape[i]));
  return text + "]";
}

// The address of a tensor's values of type T; throws std::invalid_argument unless it is contiguous, on this device,
// and of this dtype and shape, in which -1 is any size.
template <class T>
T* values(const Tensor& t, const char* name, const std::string& dtype, const std::vector<int64_t>& shape,
          const std::string& device = "cpu") {
  bool fits = t.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == t.shape[i];
  if (fits && t.contiguous && t.dtype == dtype && t.device == device) return (T*)t.address;
  throw std::invalid_argument(std::string(name) + ": a " + (t.contiguous ? "contiguous" : "strided") + " tensor of " +
                              t.dtype + " " + shown(t.shape) + " on " + t.device + " where a contiguous one of " +
                              dtype + " " + shown(shape) + " on " + device + " is needed");
}

// The same for a tensor of any shape.
template <class T>
T* any_values(const Tensor& t, const char* name, const std::string& dtype, const std::string& device = "cpu") {
  return values<T>(t, name, dtype, t.shape, device);
}

}  // namespace fastcomb

namespace pybind11::detail {

template <>
struct type_caster<fastcomb::Tensor> {
  PYBIND11_TYPE_CASTER(fastcomb::Tensor, const_name("torch.Tensor"));

  bool load(handle source, bool) {
    if (!hasattr(source, "data_ptr") || !hasattr(source, "is_contiguous")) return false;
    value.address = source.attr("data_ptr")().cast<uintptr_t>();
    const std::string dtype = str(source.attr("dtype"));  // "torch.float32"
    value.dtype = dtype.substr(dtype.find('.') + 1);
    value.device = str(source.attr("device"));
    value.shape = source.attr("shape").cast<std::vector<int64_t>>();
    value.contiguous = source.attr("is_contiguous")().cast<bool>();
    value.item = source.attr("element_size")().cast<int64_t>();
    return true;
  }
};

}  // namespace pybind11::detail
