// The lists of ops.def as data: names for Python, and what an instruction of each operation consists of.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "operations.h"

namespace fastcomb {

struct Enumeration {
  const char* name;
  std::vector<const char*> entries;  // by number
};

const std::vector<Enumeration>& enumerations();

// The number behind a name of an enumeration; throws std::invalid_argument with what there is.
int entry(const char* enumeration, const std::string& name);

struct Field {
  enum Kind { kOperand, kOptional, kNumber, kFlag, kChoice, kArray, kList, kFactor };
  Kind kind;
  const char* name;
  int count;                // of numbers, for kArray
  const char* enumeration;  // for kChoice
};

struct Schema {
  const char* name;
  std::vector<Field> fields;
  size_t operands, numbers, factors;  // numbers at least, before a list
  bool list;
};

// By number, as Op.
const std::vector<Schema>& operations();

// The number behind an operation's name; throws std::invalid_argument with what there is.
int operation(const std::string& name);

// Throws std::invalid_argument unless the instruction has all fields, and no number outside its enumeration.
void check_fields(const Instruction& i);

}  // namespace fastcomb
