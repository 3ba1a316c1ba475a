#include "isa/target.h"

KT_TARGET_BEGIN("avx2,fma,f16c")
#include "isa/operators.h"

#include "isa/avx2.h"

#include "isa/avx2_integer.h"

#include "isa/avx2_few_rows.h"

#include "isa/avx2_bytes.h"
#include "isa/avx2_words.h"

#include "isa/instantiate.h"

KT_KERNEL_TABLES(avx2, Avx2)
KT_TARGET_END
