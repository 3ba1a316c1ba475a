#include "probe.h"

#include <emmintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dispatch.h"
#include "runtime/threads.h"

namespace kt {
namespace {

constexpr std::size_t kOperandBytes = 65536;  // as much as a panel

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double peak(const std::string& isa, const std::string& format, int threads, int milliseconds) {
  const Kernels& k = kernels(isa, format);
  Pool::Use pool(threads);
  std::vector<double> rates(static_cast<std::size_t>(pool.threads()), 0.0);
  pool.run(1, pool.threads(), [&](int /*part*/, int task, Scratch& s) {
    // Values as any operand's, so that as many bits change as in use: on zeros a tile unit's clock
    // is a fifth higher.
    for (std::byte* const operand : {s.a, s.panel}) {
      for (std::size_t i = 0; i < kOperandBytes; i += 2) {
        const auto bits = static_cast<std::uint16_t>(0x3f80 + i * 40503 % 32749 % 128);
        std::memcpy(operand + i, &bits, sizeof bits);
      }
    }
    constexpr int kRounds = 2000;  // below a millisecond
    k.peak_round(kRounds, s);      // warm-up
    double flop = 0;
    const auto start = std::chrono::steady_clock::now();
    double elapsed = 0;
    while (elapsed < 1e-3 * milliseconds) {
      flop += k.peak_round(kRounds, s);
      elapsed = seconds_since(start);
    }
    rates[static_cast<std::size_t>(task)] = flop / elapsed;
  });
  double total = 0;
  for (const double rate : rates) total += rate;
  return total;
}

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
