#include "isa/target.h"

KT_TARGET_BEGIN("avx512vbmi,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "isa/operators.h"

#include "isa/avx512.h"

#include "isa/avx512_f32.h"

#include "isa/avx512_integer.h"

#include "isa/avx512_vnni.h"

#include "isa/avx512_vbmi.h"

#include "isa/instantiate.h"

KT_KERNEL_TABLES(avx512_vbmi, Avx512F32Vbmi)
KT_TARGET_END
