// Bounds of instructions, checked once when they are handed over: none reads or writes outside its memory.
#pragma once

#include "engine.h"

namespace fastcomb {

// Throws std::invalid_argument unless the instruction stays within its memories in blocks 0 to `last_block`.
void verify(const Instruction& i, const Kernels& k, int64_t last_block, Extents& extents);

// Likewise for `bytes` at one address that does not move with the block.
void verify(const Address& a, int64_t bytes, Extents& extents);

}  // namespace fastcomb
