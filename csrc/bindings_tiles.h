// Single tile instructions for their tests, as kt_kernel_ext._tiles.
#pragma once

#include <pybind11/pybind11.h>

namespace kt {
void bind_tiles(pybind11::module_& m);
}
