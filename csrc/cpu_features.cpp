#include "cpu_features.h"

#include <cpuid.h>
#include <sched.h>
#include <unistd.h>

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

constexpr std::uint64_t kYmmState = 0x6;   // XMM and YMM
constexpr std::uint64_t kZmmState = 0xe6;  // and opmask, upper ZMM halves, ZMM 16-31

struct Feature {
  const char* name;
  bool present;
};

std::string missing(std::uint64_t state, const std::vector<Feature>& features) {
  std::string lacks;
  for (const Feature& feature : features) {
    if (!feature.present) lacks += (lacks.empty() ? "" : ", ") + std::string(feature.name);
  }
  if (!lacks.empty()) return "this CPU lacks " + lacks;
  if ((xcr0() & state) != state) return "the operating system does not save its registers";
  return "";
}

}  // namespace

std::string missing_features(const std::string& isa) {
#if defined(KT_MODEL)
  if (isa.starts_with("avx512")) return "";  // runs on the software model
#endif
  const Registers basic = cpuid(1, 0);
  const Registers seven = cpuid(7, 0);
  const Registers seven1 = cpuid(7, 1);
  const auto bit = [](unsigned word, int n) { return ((word >> n) & 1U) != 0; };
  const Feature avx512f{"AVX512F", bit(seven.ebx, 16)};
  const Feature avx512dq{"AVX512DQ", bit(seven.ebx, 17)};
  const Feature avx512bw{"AVX512BW", bit(seven.ebx, 30)};
  const Feature avx512vl{"AVX512VL", bit(seven.ebx, 31)};
  const Feature avx512_vnni{"AVX512_VNNI", bit(seven.ecx, 11)};
  const Feature avx512_bf16{"AVX512_BF16", bit(seven1.eax, 5)};
  if (isa == "portable") return "";
  if (isa == "avx2") {
    return missing(
        kYmmState,
        {{"AVX2", bit(seven.ebx, 5)}, {"FMA", bit(basic.ecx, 12)}, {"F16C", bit(basic.ecx, 29)}});
  }
  if (isa == "avx512_f32") return missing(kZmmState, {avx512f, avx512dq, avx512bw, avx512vl});
  if (isa == "avx512_vnni") {
    return missing(kZmmState, {avx512f, avx512dq, avx512bw, avx512vl, avx512_vnni});
  }
  if (isa == "avx512_bf16") {
    return missing(kZmmState, {avx512f, avx512dq, avx512bw, avx512vl, avx512_vnni, avx512_bf16});
  }
  return "no rule says what it needs";
}

int cpu_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return CPU_COUNT(&set);
}

void bind_to_node(int node) {
  std::ifstream file("/sys/devices/system/node/node" + std::to_string(node) + "/cpulist");
  // The process's cores, not the thread's: that one may lie on another node by now.
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(getpid(), sizeof allowed, &allowed) != 0) return;
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  int first = 0;
  while (file >> first) {  // such as "0-3,8-11"
    int last = first;
    if (file.peek() == '-') {
      file.get();
      file >> last;
    }
    for (int cpu = first; cpu <= last && cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &allowed)) CPU_SET(cpu, &wanted);
    }
    if (file.peek() == ',') file.get();
  }
  if (CPU_COUNT(&wanted) > 0) sched_setaffinity(0, sizeof wanted, &wanted);
}

int numa_nodes() {
  int nodes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/node", error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("node") && name.size() > 4 && name[4] >= '0' && name[4] <= '9') ++nodes;
  }
  return nodes > 0 ? nodes : 1;
}

}  // namespace kt
