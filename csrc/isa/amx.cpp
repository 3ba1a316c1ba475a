#include "isa/target.h"

KT_TARGET_BEGIN(
    "amx-tile,amx-bf16,avx512bf16,avx512vbmi,avx512vnni,avx512f,avx512bw,avx512dq,"
    "avx512vl,avx2,fma")
#include "isa/operators.h"

#include "isa/avx512.h"

#include "isa/avx512_bf16.h"

#include "isa/avx512_integer.h"

#include "isa/avx512_vnni.h"

#include "isa/avx512_vbmi.h"

#include "isa/amx_tiles.h"

#include "isa/amx_panels.h"

#include "isa/amx_codes.h"

#include "isa/amx.h"

#include "isa/instantiate.h"

KT_KERNEL_TABLES(amx, Amx)
KT_TARGET_END
