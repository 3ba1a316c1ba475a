// Everything that is compiled once per instruction set. The blank lines keep an order in which
// each builds on those above.
#pragma once

#include "ops/pack_a.h"

#include "ops/gemm.h"
#include "ops/outer.h"

#include "ops/elementwise.h"
#include "ops/swiglu.h"

#include "ops/integer_tile.h"
#include "ops/rounding.h"

#include "ops/quantize.h"

#include "ops/gemm_integer.h"

#include "formats/bf16.h"

#include "formats/shared/codes.h"
#include "formats/shared/scale_search.h"

#include "formats/shared/row_scaled.h"

#include "formats/int4.h"
#include "formats/int4_kgroup.h"
#include "formats/int8.h"
