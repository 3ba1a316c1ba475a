#include "isa/target.h"

// The set of AMD's CPUs: on Intel's avx512_vbmi or amx is chosen. A Zen 4 reads fastest so.
#define KT_FETCH_AHEAD 16384

KT_TARGET_BEGIN("avx512bf16,avx512vbmi,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "isa/operators.h"

#include "isa/avx512.h"

#include "isa/avx512_bf16.h"

#include "isa/avx512_integer.h"

#include "isa/avx512_vnni.h"

#include "isa/avx512_vbmi.h"

#include "isa/instantiate.h"

KT_KERNEL_TABLES(avx512_bf16, Avx512Bf16)
KT_TARGET_END
