// What the machine's memory gives.
#pragma once

namespace kt {

// Bytes per second at which all threads together read memory far larger than the caches.
double read_bandwidth(int threads, int mebibytes);

}  // namespace kt
