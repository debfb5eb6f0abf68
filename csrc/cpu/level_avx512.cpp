#if defined(__x86_64__)
#define FASTCOMB_AVX512 1
#define FASTCOMB_LEVEL level_avx512
#include "level.h"

FASTCOMB_TABLE(kAvx512, "avx512")
#endif
