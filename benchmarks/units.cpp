// What the CPU's multiply units can do: products of registers alone, by inline assembly, so that
// neither a compiler nor a commit of this project can move the roof. units.py compiles and calls
// it.
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>

namespace {

struct alignas(64) Operands {
  std::uint16_t values[512];
};

// Values as any operand's: on zeros a tile unit's clock is a fifth higher.
Operands make_operands() {
  Operands made{};
  for (unsigned i = 0; i < 512; ++i) {
    made.values[i] = static_cast<std::uint16_t>(0x3f80 + i * 40503 % 32749 % 128);
  }
  return made;
}

const Operands operands = make_operands();

// Of one round: sums begin at zero, since where they have grown large few of their bits change.
constexpr int kSteps = 256;

// Steps per second.
double rate(void (*round)(), double milliseconds) {
  using Clock = std::chrono::steady_clock;
  round();  // wakes the unit
  const auto start = Clock::now();
  std::chrono::duration<double> elapsed{};
  std::int64_t rounds = 0;
  do {
    for (int i = 0; i < 16; ++i) round();  // microseconds, beside which the clock does not count
    rounds += 16;
    elapsed = Clock::now() - start;
  } while (elapsed.count() < 1e-3 * milliseconds);
  return static_cast<double>(rounds * kSteps) / elapsed.count();
}

}  // namespace

// A round of kSteps times `step` on each of the sums in registers 0 to 11, `step` and `clear` being
// for register \i. Twelve independent sums are more than any unit has on its way: 4 or 5 cycles of
// latency by two ports (Intel's optimization manual; Fog, "Instruction tables").
#define KT_TWELVE(text) ".irp i,0,1,2,3,4,5,6,7,8,9,10,11\n" text "\n.endr\n"
#define KT_UNIT(name, load, clear, step)                                                         \
  extern "C" double name(double milliseconds) {                                                  \
    return rate(                                                                                 \
        [] {                                                                                     \
          int steps = kSteps;                                                                    \
          __asm__ volatile(load KT_TWELVE(clear) "1:\n" KT_TWELVE(step) "dec %0\njnz 1b"         \
                           : "+r"(steps)                                                         \
                           : "r"(&operands)                                                      \
                           : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",     \
                             "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
                             "xmm14", "xmm15");                                                  \
        },                                                                                       \
        milliseconds);                                                                           \
  }

#define KT_LOAD_SSE "movaps (%1), %%xmm14\nmovaps 64(%1), %%xmm15\n"
#define KT_LOAD(r) "vmovups (%1), %%" r "14\nvmovups 64(%1), %%" r "15\n"
#define KT_CLEAR_SSE "xorps %%xmm\\i, %%xmm\\i"
#define KT_CLEAR "vxorps %%xmm\\i, %%xmm\\i, %%xmm\\i"
// Sums of 16 bits, as bytes of few bits allow: a bound for all that multiplies bytes.
#define KT_BYTES(r) \
  "vpmaddubsw %%" r "14, %%" r "15, %%" r "12\nvpaddw %%" r "12, %%" r "\\i, %%" r "\\i"

KT_UNIT(float_xmm, KT_LOAD_SSE, KT_CLEAR_SSE,
        "movaps %%xmm15, %%xmm12\nmulps %%xmm14, %%xmm12\naddps %%xmm12, %%xmm\\i")
KT_UNIT(float_ymm, KT_LOAD("ymm"), KT_CLEAR, "vfmadd231ps %%ymm14, %%ymm15, %%ymm\\i")
KT_UNIT(float_zmm, KT_LOAD("zmm"), KT_CLEAR, "vfmadd231ps %%zmm14, %%zmm15, %%zmm\\i")
KT_UNIT(bf16_zmm, KT_LOAD("zmm"), KT_CLEAR, "vdpbf16ps %%zmm14, %%zmm15, %%zmm\\i")
KT_UNIT(words_xmm, KT_LOAD_SSE, KT_CLEAR_SSE,
        "movaps %%xmm15, %%xmm12\npmaddwd %%xmm14, %%xmm12\npaddd %%xmm12, %%xmm\\i")
KT_UNIT(bytes_ymm, KT_LOAD("ymm"), KT_CLEAR, KT_BYTES("ymm"))
KT_UNIT(bytes_zmm, KT_LOAD("zmm"), KT_CLEAR, KT_BYTES("zmm"))
KT_UNIT(dot_zmm, KT_LOAD("zmm"), KT_CLEAR, "vpdpbusd %%zmm14, %%zmm15, %%zmm\\i")

namespace {

struct alignas(64) TileConfiguration {  // Intel SDM vol. 2, "LDTILECFG"
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
};

// Whether the kernel lets this process use tiles, which it must be asked (its documentation,
// arch/x86/xstate.rst).
bool has_tiles() {
  constexpr int kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

// Four sums in tiles 0 to 3: 16 cycles each by 52 of latency (the same manual).
#define KT_TILE_UNIT(name, step)                                                         \
  extern "C" double name(double milliseconds) {                                          \
    if (!has_tiles()) return 0;                                                          \
    return rate(                                                                         \
        [] {                                                                             \
          int steps = kSteps;                                                            \
          const TileConfiguration configuration;                                         \
          __asm__ volatile(                                                              \
              "ldtilecfg %2\ntileloadd (%1,%3,1), %%tmm4\ntileloadd (%1,%3,1), %%tmm5\n" \
              ".irp i,0,1,2,3\ntilezero %%tmm\\i\n.endr\n1:\n.irp i,0,1,2,3\n" step      \
              " %%tmm4, %%tmm5, %%tmm\\i\n.endr\ndec %0\njnz 1b\ntilerelease"            \
              : "+r"(steps)                                                              \
              : "r"(&operands), "m"(configuration), "r"(std::int64_t{64})                \
              : "cc", "memory");                                                         \
        },                                                                               \
        milliseconds);                                                                   \
  }
KT_TILE_UNIT(bf16_tiles, "tdpbf16ps")
KT_TILE_UNIT(bytes_tiles, "tdpbssd")
