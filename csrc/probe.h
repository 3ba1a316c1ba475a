// The machine's own limits, measured with the kernels that are to reach them.
#pragma once

#include <string>

namespace kt {

// Flop per second of the tile on operands in L1, all threads together: the compute roof.
double peak(const std::string& isa, const std::string& format, int threads, int milliseconds);

// Bytes per second at which all threads together read memory far larger than the caches.
double read_bandwidth(int threads, int mebibytes);

}  // namespace kt
