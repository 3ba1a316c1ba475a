// The tables of kernels of one instruction set, one for each format of the registry.
#pragma once

namespace kt {
namespace {

template <class I, class F>
constexpr Kernels make_kernels() {
  Kernels table{};
  table.format = F::kName;
  table.packed_bytes = F::bytes;
  table.pack = F::template pack<I>;
  table.unpack = F::unpack;
  if constexpr (requires { F::kIntegers; }) {
    table.integers = &F::kIntegers;
    table.first_not_finite = first_not_finite<I>;
    table.pack_codes = F::pack_codes;
    table.unpack_codes = F::unpack_codes;
    constexpr Axis k = Axis::k;
    constexpr Axis n = Axis::n;
    table.rounded_bytes[static_cast<int>(k)] = rounded_bytes<I, F, k>;
    table.rounded_bytes[static_cast<int>(n)] = rounded_bytes<I, F, n>;
    table.round[static_cast<int>(k)] = round_rows<I, F, k>;
    table.round[static_cast<int>(n)] = round_rows<I, F, n>;
    table.rounded_rows[static_cast<int>(k)] = rounded_rows<I, F, k>;
    table.rounded_rows[static_cast<int>(n)] = rounded_rows<I, F, n>;
    table.gemm[static_cast<int>(k)] = gemm_codes<I, F, k>;
    table.gemm[static_cast<int>(n)] = gemm_codes<I, F, n>;
  } else {
    table.gemm[static_cast<int>(Axis::k)] = gemm<I, F, Axis::k, Packed>;
    table.gemm[static_cast<int>(Axis::n)] = gemm<I, F, Axis::n, Packed>;
  }
  table.gemm_rows[static_cast<int>(Axis::k)] = gemm<I, Unpacked, Axis::k, RowMajor>;
  table.gemm_rows[static_cast<int>(Axis::n)] = gemm<I, Unpacked, Axis::n, RowMajor>;
  table.outer = outer<I>;
  table.swiglu = swiglu<I>;
  table.swiglu_backward = swiglu_backward<I>;
  table.scatter_add = scatter_add<I>;
  table.store_rows = store_rows<I>;
  table.to_act = to_act<I>;
  table.sum_parts = sum_parts<I>;
  return table;
}

}  // namespace
}  // namespace kt

#define KT_KERNELS_OF(format) make_kernels<Isa, format>(),
#define KT_KERNEL_TABLES(name, type)                                      \
  namespace kt {                                                          \
  namespace {                                                             \
  using Isa = type;                                                       \
  }                                                                       \
  extern const Kernels name##_kernels[];                                  \
  const Kernels name##_kernels[] = {KT_FORMATS(KT_KERNELS_OF) Kernels{}}; \
  }  // namespace kt
