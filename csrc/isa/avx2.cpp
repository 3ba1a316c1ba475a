#include "isa/target.h"

KT_TARGET_BEGIN("avx2,fma")
#include "isa/operators.h"

#include "isa/avx2.h"

#include "isa/instantiate.h"

KT_KERNEL_TABLES(avx2, Avx2)
KT_TARGET_END
