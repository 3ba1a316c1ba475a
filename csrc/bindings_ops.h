// Single kernels for their tests, as kt_kernel_ext._ops.
#pragma once

#include <pybind11/pybind11.h>

namespace kt {
void bind_ops(pybind11::module_& m);
}
