// Which instruction levels there are: best first, as the processor says.
#include <algorithm>

#include "engine.h"

namespace fastcomb {

std::vector<std::string> levels() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) found.push_back("avx512_bf16");
  if (avx512) found.push_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back("avx2");
#endif
  found.push_back("portable");
  return found;
}

const Kernels* find_level(const std::string& name) {
  const auto known = levels();
  if (std::find(known.begin(), known.end(), name) == known.end()) return nullptr;
#if defined(__x86_64__)
  for (const Kernels* k : {&kAvx512Bf16, &kAvx512, &kAvx2})
    if (name == k->name) return k;
#endif
  return &kPortable;
}

}  // namespace fastcomb
