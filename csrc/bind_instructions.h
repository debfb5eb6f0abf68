// Instructions from Python: an operation's name, a dtype's name, and the fields by name.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "schema.h"

namespace fastcomb {

// A place: space, which of the inputs (0 elsewhere), offset and step in bytes; or None.
inline Address address(const pybind11::handle& place) {
  if (place.is_none()) return {-1, 0, 0};
  const auto [space, which, offset, step] = place.cast<std::tuple<std::string, int, int64_t, int64_t>>();
  constexpr int kMostInputs = 64;
  const int number = entry("Space", space);
  if (which < 0 || which >= kMostInputs || (which && number != kInput))
    throw std::invalid_argument("an input that there is not");
  return {number + which, offset, step};
}

inline Instruction instruction(const std::string& name, const std::string& dtype, const pybind11::dict& given) {
  Instruction made{operation(name), entry("Dtype", dtype), {}, {}, {}};
  const Schema& schema = operations()[made.op];
  const auto refuse = [&](const std::string& why) { throw std::invalid_argument(name + ": " + why); };
  size_t used = 0;
  for (const Field& field : schema.fields) {
    const pybind11::handle value(PyDict_GetItemString(given.ptr(), field.name));  // borrowed
    if (!value) {
      if (field.kind != Field::kOptional) refuse(std::string("the field ") + field.name + " is missing");
      made.at.push_back({-1, 0, 0});
      continue;
    }
    ++used;
    try {
      switch (field.kind) {
        case Field::kOperand:
        case Field::kOptional: made.at.push_back(address(value)); break;
        case Field::kNumber: made.n.push_back(value.cast<int64_t>()); break;
        case Field::kFlag: made.n.push_back(value.cast<bool>()); break;
        case Field::kChoice: made.n.push_back(entry(field.enumeration, value.cast<std::string>())); break;
        case Field::kFactor: made.f.push_back(value.cast<double>()); break;
        case Field::kArray:
        case Field::kList: {
          const auto numbers = value.cast<std::vector<int64_t>>();
          if (field.kind == Field::kArray && (int64_t)numbers.size() != field.count)
            refuse(std::string("the field ") + field.name + " takes " + std::to_string(field.count) + " numbers");
          made.n.insert(made.n.end(), numbers.begin(), numbers.end());
        }
      }
    } catch (const pybind11::cast_error&) {
      refuse(std::string("the field ") + field.name + " has a value of another type");
    }
  }
  if (used != given.size()) {
    for (const auto& [key, _] : given) {
      const auto text = pybind11::str(key).cast<std::string>();
      bool known = false;
      for (const Field& field : schema.fields) known |= text == field.name;
      if (!known) refuse("no field " + text);
    }
  }
  check_fields(made);
  return made;
}

}  // namespace fastcomb
