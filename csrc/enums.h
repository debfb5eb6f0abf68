// The enumerations of ops.def, for CPUs and devices.
#pragma once

namespace fastcomb {

#define ENUM(Name) enum Name : int {
#define ENTRY(name, constant) constant,
#define END_ENUM(Name) \
  }                    \
  ;
#include "ops.def"

}  // namespace fastcomb
