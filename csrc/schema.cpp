#include "schema.h"

#include <string.h>

#include <type_traits>

namespace fastcomb {

const std::vector<Enumeration>& enumerations() {
#define ENUM(Name) {#Name, {
#define ENTRY(name, constant) #name,
#define END_ENUM(Name) \
  }                    \
  }                    \
  ,
  static const std::vector<Enumeration> all = {
#include "ops.def"
  };
  return all;
}

static const Enumeration& enumeration(const char* name) {
  for (const Enumeration& one : enumerations())
    if (!strcmp(one.name, name)) return one;
  throw std::logic_error(std::string("no enumeration ") + name);
}

// The number of a name among these; throws std::invalid_argument with all of them, which are of this kind.
static int number_of(const std::string& name, const char* kind, const std::vector<const char*>& known) {
  std::string names;
  for (size_t i = 0; i < known.size(); ++i) {
    if (name == known[i]) return (int)i;
    names += (i ? ", " : "") + std::string(known[i]);
  }
  throw std::invalid_argument("'" + name + "' is no " + kind + ": " + names);
}

int entry(const char* kind, const std::string& name) { return number_of(name, kind, enumeration(kind).entries); }

static Schema counted(const char* name, std::vector<Field> fields) {
  Schema s{name, std::move(fields), 0, 0, 0, false};
  for (const Field& f : s.fields) switch (f.kind) {
      case Field::kOperand:
      case Field::kOptional: ++s.operands; break;
      case Field::kList: s.list = true; break;
      case Field::kFactor: ++s.factors; break;
      default: s.numbers += (size_t)f.count;
    }
  return s;
}

const std::vector<Schema>& operations() {
#define OPERATION(name, Struct) counted(#name, {
#define IN(T, name) {Field::kOperand, #name, 1, ""},
#define OUT(T, name) {Field::kOperand, #name, 1, ""},
#define OPTIONAL(T, name) {Field::kOptional, #name, 1, ""},
#define NUMBER(T, name) {std::is_same<T, bool>::value ? Field::kFlag : Field::kNumber, #name, 1, ""},
#define CHOICE(Enum, name) {Field::kChoice, #name, 1, #Enum},
#define ARRAY(name, count) {Field::kArray, #name, count, ""},
#define LIST(count, name) {Field::kList, #name, 0, ""},
#define FACTOR(T, name) {Field::kFactor, #name, 1, ""},
#define END_OPERATION(name, Struct) \
  }),
  static const std::vector<Schema> all = {
#include "ops.def"
  };
  return all;
}

int operation(const std::string& name) {
  std::vector<const char*> known;
  for (const Schema& s : operations()) known.push_back(s.name);
  return number_of(name, "operation", known);
}

void check_fields(const Instruction& i) {
  if (i.op < 0 || i.op >= (int)operations().size()) throw std::invalid_argument("an unknown operation");
  const Schema& s = operations()[i.op];
  const auto refuse = [&](const std::string& why) { throw std::invalid_argument(std::string(s.name) + ": " + why); };
  if (i.dtype != kFloat32 && i.dtype != kBfloat16) refuse("its dtype is neither float32 nor bfloat16");
  if (i.at.size() != s.operands) refuse("another number of operands");
  if (i.f.size() != s.factors) refuse("another number of factors");
  if (s.list ? i.n.size() < s.numbers : i.n.size() != s.numbers) refuse("another number of numbers");
  size_t operand = 0, number = 0;
  for (const Field& f : s.fields) switch (f.kind) {
      case Field::kOperand:
        if (i.at[operand].space < 0) refuse(std::string("without ") + f.name);
        ++operand;
        break;
      case Field::kOptional: ++operand; break;
      case Field::kFlag:
        if (i.n[number] != 0 && i.n[number] != 1) refuse(std::string(f.name) + " is neither true nor false");
        ++number;
        break;
      case Field::kChoice:
        if (i.n[number] < 0 || i.n[number] >= (int64_t)enumeration(f.enumeration).entries.size())
          refuse(std::string(f.name) + " is no " + f.enumeration);
        ++number;
        break;
      case Field::kNumber:
      case Field::kArray: number += (size_t)f.count; break;
      case Field::kList:
      case Field::kFactor: break;
    }
}

}  // namespace fastcomb
