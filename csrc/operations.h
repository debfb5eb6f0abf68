// Instructions of the compiled engine, and the operations of ops.def as structs that are read from them.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "enums.h"

namespace fastcomb {

constexpr int kMaxDims = 6;

#define OPERATION(name, Struct) k##Struct##Op,
#define IN(T, name)
#define OUT(T, name)
#define OPTIONAL(T, name)
#define NUMBER(T, name)
#define CHOICE(Enum, name)
#define ARRAY(name, count)
#define LIST(count, name)
#define FACTOR(T, name)
#define END_OPERATION(name, Struct)
enum Op : int {
#include "ops.def"
};

// base of `space` + offset + step * block, in bytes; a negative space is no operand. Inputs after the first
// have the spaces after kInput.
struct Address {
  int space;
  int64_t offset, step;
};

struct Instruction {
  int op;     // of Op
  int dtype;  // of Dtype: float32 or bfloat16
  std::vector<Address> at;
  std::vector<int64_t> n;
  std::vector<double> f;
};

// The structs: operands as addresses (null where they are missing), and numbers.
#define OPERATION(name, Struct) struct Struct {
#define IN(T, name) const T* name;
#define OUT(T, name) T* name;
#define OPTIONAL(T, name) const T* name;
#define NUMBER(T, name) T name;
#define CHOICE(Enum, name) int name;
#define ARRAY(name, count) int64_t name[count];
#define LIST(count, name) \
  int64_t count;          \
  const int64_t* name;
#define FACTOR(T, name) T name;
#define END_OPERATION(name, Struct) \
  }                                 \
  ;
#include "ops.def"

// Their values in an instruction, field by field; `at` gives the address of an operand by its number. Whoever made
// the instruction has seen to it that all fields are there (schema.h).
template <class At>
struct Fields {
  const Instruction& i;
  const At& at;
  size_t operand = 0, number = 0, factor = 0;
};

#define OPERATION(name, Struct)                                      \
  template <class At>                                                \
  Struct read_##name(const Instruction& instruction, const At& at) { \
    Fields<At> fields{instruction, at};                              \
    Struct found{};
#define IN(T, name) found.name = (const T*)at(fields.operand++);
#define OUT(T, name) found.name = (T*)at(fields.operand++);
#define OPTIONAL(T, name) found.name = (const T*)at(fields.operand++);
#define NUMBER(T, name) found.name = (T)instruction.n[fields.number++];
#define CHOICE(Enum, name) found.name = (int)instruction.n[fields.number++];
#define ARRAY(name, count) \
  for (int64_t& entry : found.name) entry = instruction.n[fields.number++];
#define LIST(count, name)                                        \
  found.count = (int64_t)(instruction.n.size() - fields.number); \
  found.name = instruction.n.data() + fields.number;
#define FACTOR(T, name) found.name = (T)instruction.f[fields.factor++];
#define END_OPERATION(name, Struct) \
  (void)fields;                     \
  return found;                     \
  }
#include "ops.def"

}  // namespace fastcomb
