// AVX-512 and AMX in software under the intrinsics' own names, so that the same kernel source
// runs, slowly, on any CPU: SIMDe's portable definitions, and our model of the tile unit. For tests
// only (CMake: KT_KERNEL_MODEL=ON).
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#include "isa/amx_model.h"

namespace kt::model {

// VCVTNE2PS2BF16, which SIMDe lacks (Intel SDM vol. 2): 16 values of `low`, then 16 of `high`, to
// the nearest bf16, ties to even; denormals count as zeros.
inline std::uint16_t to_bf16(std::uint32_t bits) {
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(bits >> 16 | 0x40U);
  if (magnitude < 0x00800000U) return static_cast<std::uint16_t>(bits >> 16 & 0x8000U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}
inline __m512bh cvtne2ps_pbh(const __m512& high, const __m512& low) {
  std::uint32_t bits[32];
  std::memcpy(bits, &low, 64);
  std::memcpy(bits + 16, &high, 64);
  std::uint16_t words[32];
  for (int i = 0; i < 32; ++i) words[i] = to_bf16(bits[i]);
  __m512bh result;
  std::memcpy(&result, words, sizeof result);
  return result;
}

}  // namespace kt::model

// The compiler's own header may come with SIMDe.
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig kt::tile_model::ldtilecfg
#define _tile_release kt::tile_model::tilerelease
#define _tile_loadd kt::tile_model::tileloadd
#define _tile_stored kt::tile_model::tilestored
#define _tile_zero kt::tile_model::tilezero
#define _tile_dpbf16ps kt::tile_model::tdpbf16ps
#define _mm512_cvtne2ps_pbh kt::model::cvtne2ps_pbh
