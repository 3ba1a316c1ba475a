// Everything that is compiled once per instruction set. The blank lines keep an order in which
// each builds on those above.
#pragma once

#include "ops/pack_a.h"

#include "ops/gemm.h"

#include "ops/elementwise.h"
#include "ops/swiglu.h"

#include "formats/bf16.h"
