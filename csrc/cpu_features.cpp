#include "cpu_features.h"

#include <cpuid.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

namespace kt {
namespace {

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

std::uint64_t xcr0() {
  if ((cpuid(1, 0).ecx & (1U << 27)) == 0) return 0;  // OSXSAVE
  unsigned lo = 0;
  unsigned hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<std::uint64_t>(hi) << 32) | lo;
}

// XCR0's bits of the state that the operating system must save.
constexpr std::uint64_t kYmmState = 0x6;   // XMM and YMM
constexpr std::uint64_t kZmmState = 0xe6;  // and opmask, upper ZMM halves, ZMM 16-31
constexpr int kTileData = 18;
constexpr std::uint64_t kTileState = kZmmState | 3ULL << 17;  // and TILECFG, TILEDATA

struct Feature {  // a bit of CPUID
  const char* name;
  unsigned leaf, subleaf;
  unsigned Registers::* word;
  int bit;
};

constexpr Feature kFma{"FMA", 1, 0, &Registers::ecx, 12};
constexpr Feature kF16c{"F16C", 1, 0, &Registers::ecx, 29};
constexpr Feature kAvx2{"AVX2", 7, 0, &Registers::ebx, 5};
constexpr Feature kAvx512F{"AVX512F", 7, 0, &Registers::ebx, 16};
constexpr Feature kAvx512Dq{"AVX512DQ", 7, 0, &Registers::ebx, 17};
constexpr Feature kAvx512Bw{"AVX512BW", 7, 0, &Registers::ebx, 30};
constexpr Feature kAvx512Vl{"AVX512VL", 7, 0, &Registers::ebx, 31};
constexpr Feature kAvx512Vbmi{"AVX512_VBMI", 7, 0, &Registers::ecx, 1};
constexpr Feature kAvx512Vnni{"AVX512_VNNI", 7, 0, &Registers::ecx, 11};
constexpr Feature kAvx512Bf16{"AVX512_BF16", 7, 1, &Registers::eax, 5};
constexpr Feature kAmxBf16{"AMX_BF16", 7, 0, &Registers::edx, 22};
constexpr Feature kAmxTile{"AMX_TILE", 7, 0, &Registers::edx, 24};
constexpr Feature kAmxInt8{"AMX_INT8", 7, 0, &Registers::edx, 25};

using Features = std::vector<Feature>;

Features operator+(Features base, const Features& more) {
  base.insert(base.end(), more.begin(), more.end());
  return base;
}

struct Needs {
  const char* isa;
  std::uint64_t state;
  Features base;  // of the sets that this one builds on
  Features own;
};

std::vector<Needs> all_needs() {
  const Features avx512{kAvx512F, kAvx512Dq, kAvx512Bw, kAvx512Vl};
  const Features vnni = avx512 + Features{kAvx512Vnni};
  const Features vbmi = vnni + Features{kAvx512Vbmi};
  // Cooper Lake has BF16 but no VBMI: it runs avx512_vnni.
  const Features bf16 = vbmi + Features{kAvx512Bf16};
  return {
      {"amx", kTileState, bf16, {kAmxTile, kAmxBf16, kAmxInt8}},
      {"avx512_bf16", kZmmState, vbmi, {kAvx512Bf16}},
      {"avx512_vbmi", kZmmState, vnni, {kAvx512Vbmi}},
      {"avx512_vnni", kZmmState, avx512, {kAvx512Vnni}},
      {"avx512_f32", kZmmState, {}, avx512},
      {"avx2", kYmmState, {}, {kAvx2, kFma, kF16c}},
      {"portable", 0, {}, {}},
  };
}

// Asks the kernel for the state that it saves only for processes that ask (its documentation,
// arch/x86/xstate.rst). Every thread may use the tiles then, and so may forked children.
std::string ask_for_tiles() {
  constexpr int kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM
  if (syscall(SYS_arch_prctl, kRequest, kTileData) == 0) return "";
  return "the kernel does not permit its registers (" + std::generic_category().message(errno) +
         ")";
}

std::string lacking(const Features& features) {
  std::string lacks;
  for (const Feature& feature : features) {
    const unsigned word = cpuid(feature.leaf, feature.subleaf).*feature.word;
    if (((word >> feature.bit) & 1U) != 0) continue;
    lacks += (lacks.empty() ? "" : ", ") + std::string(feature.name);
  }
  return lacks;
}

std::string missing(const Needs& needs) {
  // What the set itself is about says enough.
  std::string lacks = lacking(needs.own);
  if (lacks.empty()) lacks = lacking(needs.base);
  if (!lacks.empty()) return "this CPU lacks " + lacks;
  if ((xcr0() & needs.state) != needs.state) {
    return "the operating system does not save its registers";
  }
  return (needs.state >> kTileData & 1U) != 0 ? ask_for_tiles() : "";
}

}  // namespace

std::string missing_features(const std::string& isa) {
#if defined(KT_MODEL)
  if (isa.starts_with("avx512") || isa == "amx") return "";  // runs on the software model
#endif
  for (const Needs& needs : all_needs()) {
    if (isa == needs.isa) return missing(needs);
  }
  return "no rule says what it needs";
}

bool is_slower_than_next(const std::string& isa) {
  const Registers vendor = cpuid(0, 0);
  const bool intel = vendor.ebx == 0x756e6547U;  // "Genu"
  return isa == "avx512_bf16" && intel;          // isa/avx512_bf16.h has the figures
}

namespace {

// The cores that a thread or process may use, in as many words as this kernel's sets have; empty
// where it does not say.
using CpuSet = std::vector<cpu_set_t>;

std::size_t bytes(const CpuSet& set) { return set.size() * sizeof(cpu_set_t); }

CpuSet allowed_cpus(pid_t who) {
  constexpr std::size_t kMost = 1024;  // a million cores
  for (CpuSet set(1); set.size() <= kMost; set.resize(2 * set.size())) {
    if (sched_getaffinity(who, bytes(set), set.data()) == 0) return set;
    if (errno != EINVAL) break;
  }
  return {};
}

}  // namespace

int cpu_count() {
  const CpuSet set = allowed_cpus(0);
  return set.empty() ? 1 : CPU_COUNT_S(bytes(set), set.data());
}

void bind_to_node(int node) {
  std::ifstream file("/sys/devices/system/node/node" + std::to_string(node) + "/cpulist");
  // The process's cores, not the thread's: that one may lie on another node by now.
  const CpuSet allowed = allowed_cpus(getpid());
  CpuSet wanted(allowed.size());
  const std::size_t size = bytes(wanted);
  int first = 0;
  while (file >> first) {  // such as "0-3,8-11"
    int last = first;
    if (file.peek() == '-') {
      file.get();
      file >> last;
    }
    for (int cpu = first; cpu <= last; ++cpu) {
      if (CPU_ISSET_S(static_cast<std::size_t>(cpu), size, allowed.data())) {
        CPU_SET_S(static_cast<std::size_t>(cpu), size, wanted.data());
      }
    }
    if (file.peek() == ',') file.get();
  }
  if (CPU_COUNT_S(size, wanted.data()) > 0) sched_setaffinity(0, size, wanted.data());
}

int numa_nodes() {
  static const int found = [] {
    int nodes = 0;
    std::error_code error;
    for (const auto& entry :
         std::filesystem::directory_iterator("/sys/devices/system/node", error)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("node") && name.size() > 4 && name[4] >= '0' && name[4] <= '9') ++nodes;
    }
    return nodes > 0 ? nodes : 1;
  }();
  return found;
}

}  // namespace kt
