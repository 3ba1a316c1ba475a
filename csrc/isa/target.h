// What an instruction set's file includes before its target region: every header from outside the
// region (nothing may be included inside but the project's templates), and the pragmas' spelling.
//
// Only code inside a region may use more than the baseline. Compiling whole files with -mavx2
// would emit weak std:: functions with AVX encodings, which the linker may pick for everybody.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 takes the undefined sources in its own AVX-512 header for mistakes (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#if !defined(KT_MODEL)
#include <immintrin.h>
#else
#include "isa/model.h"
#endif

#include "kernels.h"
#include "registry.h"
#include "types.h"

#define KT_PRAGMA(text) _Pragma(#text)

#if defined(KT_MODEL)  // instructions are functions of a software model: no target needed
#define KT_TARGET_BEGIN(features)
#define KT_TARGET_END
#elif defined(__clang__)
#define KT_TARGET_BEGIN(features) \
  KT_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define KT_TARGET_END KT_PRAGMA(clang attribute pop)
#else
#define KT_TARGET_BEGIN(features) KT_PRAGMA(GCC push_options) KT_PRAGMA(GCC target(features))
#define KT_TARGET_END KT_PRAGMA(GCC pop_options)
#endif

// Loops over accumulators must be unrolled whole, those that clear and store them too: otherwise
// the array lives on the stack (g++ 12: 167 instead of 343 GFLOP/s on one kernel).
#if defined(__clang__)
#define KT_UNROLL KT_PRAGMA(clang loop unroll(full))
#else
#define KT_UNROLL KT_PRAGMA(GCC unroll 64)
#endif
