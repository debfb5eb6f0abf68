#define FASTCOMB_LEVEL level_portable
#include "level.h"

FASTCOMB_TABLE(kPortable, "portable")
