#include "isa/target.h"

// Without VNNI: where it is allowed, clang joins VPMADDWD and an addition into VPDPWSSD.
KT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "isa/operators.h"

#include "isa/avx512.h"

#include "isa/avx512_f32.h"

#include "isa/avx512_integer.h"

#include "isa/avx512_madd.h"

#include "isa/instantiate.h"

KT_KERNEL_TABLES(avx512_f32, Avx512F32)
KT_TARGET_END
