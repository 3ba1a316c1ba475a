// THE list of formats and of instruction sets. A new format: its file in formats/, included in
// isa/operators.h, and a line in KT_FORMATS. A new instruction set: its file in isa/ and a line in
// KT_ISAS, in order of preference: the first that the CPU supports is chosen (cpu_features.h: but
// on Intel's CPUs avx512_vbmi comes before avx512_bf16).
#pragma once

// X(type)
#define KT_FORMATS(X) X(BF16) X(INT8) X(INT4) X(INT4KGroup)

// X(table, name, family): KT_KERNEL_ISA takes a name or a family
#define KT_ISAS(X)                        \
  X(amx, "amx", "amx")                    \
  X(avx512_bf16, "avx512_bf16", "avx512") \
  X(avx512_vbmi, "avx512_vbmi", "avx512") \
  X(avx512_vnni, "avx512_vnni", "avx512") \
  X(avx512_f32, "avx512_f32", "avx512")   \
  X(avx2, "avx2", "avx2")                 \
  X(portable, "portable", "portable")
