// AVX-512 in software: SIMDe's portable definitions under the intrinsics' own names, so that the
// same kernel source runs, slowly, on any CPU. For tests only (CMake: KT_KERNEL_MODEL=ON).
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
