#if defined(__x86_64__)
#define FASTCOMB_AVX2 1
#define FASTCOMB_LEVEL level_avx2
#include "level.h"

FASTCOMB_TABLE(kAvx2, "avx2")
#endif
