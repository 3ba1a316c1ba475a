// AVX-512 and AMX in software under the intrinsics' own names, so that the same kernel source
// runs, slowly, on any CPU: SIMDe's portable definitions, and our model of the tile unit. For tests
// only (CMake: KT_KERNEL_MODEL=ON).
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#include "isa/amx_model.h"

// The compiler's own header may come with SIMDe.
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbsud
#define _tile_loadconfig kt::tile_model::ldtilecfg
#define _tile_release kt::tile_model::tilerelease
#define _tile_loadd kt::tile_model::tileloadd
#define _tile_stored kt::tile_model::tilestored
#define _tile_zero kt::tile_model::tilezero
#define _tile_dpbf16ps kt::tile_model::tdpbf16ps
#define _tile_dpbsud kt::tile_model::tdpbsud
