#include "bandwidth.h"

#include <emmintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "runtime/threads.h"

namespace kt {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double read_bandwidth(int threads, int mebibytes) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  Memory memory(static_cast<std::size_t>(mebibytes) * kPiece);
  Pool::Use pool(threads);
  pool.run(1, mebibytes, [&](int /*part*/, int task, Scratch&) {
    std::memset(memory.data() + static_cast<std::size_t>(task) * kPiece, 1, kPiece);
  });
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(mebibytes), 0);
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.run(1, mebibytes, [&](int /*part*/, int task, Scratch&) {
      const std::byte* const p = memory.data() + static_cast<std::size_t>(task) * kPiece;
      __m128i sum[4] = {};
      for (std::size_t i = 0; i < kPiece; i += 64) {
        __builtin_prefetch(p + i + 4096, 0, 2);
        for (std::size_t j = 0; j < 4; ++j) {
          sum[j] = _mm_add_epi64(sum[j],
                                 _mm_load_si128(reinterpret_cast<const __m128i*>(p + i + 16 * j)));
        }
      }
      const __m128i all =
          _mm_add_epi64(_mm_add_epi64(sum[0], sum[1]), _mm_add_epi64(sum[2], sum[3]));
      sums[static_cast<std::size_t>(task)] += static_cast<std::uint64_t>(_mm_cvtsi128_si64(all));
    });
    const double rate = static_cast<double>(mebibytes) * kPiece / seconds_since(start);
    best = std::max(best, rate);
  }
  return sums[0] != 0 ? best : 0;
}

}  // namespace kt
