#if defined(__x86_64__)
#define FASTCOMB_AVX512 1
#define FASTCOMB_DOT_BF16 1
#define FASTCOMB_LEVEL level_avx512_bf16
#include "level.h"

FASTCOMB_TABLE(kAvx512Bf16, "avx512_bf16")
#endif
