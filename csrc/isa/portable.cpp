// The portable kernels: no target region, the baseline's instructions.
#include "isa/target.h"

#include "isa/operators.h"

#include "isa/portable.h"

#include "isa/portable_integer.h"

#include "isa/instantiate.h"

KT_KERNEL_TABLES(portable, Portable)
