#include "dispatch.h"

#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "cpu_features.h"
#include "registry.h"

namespace kt {

#define KT_DECLARE(table, name, family) extern const Kernels table##_kernels[];
KT_ISAS(KT_DECLARE)
#undef KT_DECLARE

namespace {

const Kernels* tables_of(const std::string& isa) {
#define KT_CASE(table, name, family) \
  if (isa == (name)) return table##_kernels;
  KT_ISAS(KT_CASE)
#undef KT_CASE
  return nullptr;
}

std::string names() {
  std::string list;
  std::string last;
  for (const IsaInfo& info : isas()) {
    if (info.family != last) list += (list.empty() ? "" : ", ") + info.family;
    last = info.family;
  }
  return list;
}

// A name or a family from outside to the entry it means: of a family, the best that runs here.
std::string resolve(const std::string& wanted, const std::string& source) {
  std::string why;
  for (const IsaInfo& info : isas()) {
    if (info.name != wanted && info.family != wanted) continue;
    if (info.why.empty()) return info.name;
    why = info.why;  // the least demanding entry speaks last
  }
  if (why.empty()) {
    throw std::invalid_argument(source + " is '" + wanted +
                                "', which is no instruction set of this build; known: " + names());
  }
  throw std::invalid_argument(source + " is '" + wanted + "', which can't run here: " + why);
}

std::mutex forced_mutex;
std::string forced;

}  // namespace

const std::vector<IsaInfo>& isas() {
  static const std::vector<IsaInfo> list = [] {
    std::vector<IsaInfo> all;
#define KT_INFO(table, name, family) all.push_back({name, family, missing_features(name)});
    KT_ISAS(KT_INFO)
#undef KT_INFO
    for (std::size_t i = 0; i + 1 < all.size(); ++i) {
      if (!is_slower_than_next(all[i].name)) continue;
      std::swap(all[i], all[i + 1]);
      ++i;
    }
    return all;
  }();
  return list;
}

std::vector<std::string> formats() {
  std::vector<std::string> all;
  for (const Kernels* k = tables_of("portable"); k->format != nullptr; ++k) {
    all.emplace_back(k->format);
  }
  return all;
}

std::string default_isa() {
  const std::scoped_lock lock(forced_mutex);
  if (!forced.empty()) return forced;
  const char* const wanted = std::getenv("KT_KERNEL_ISA");
  if (wanted != nullptr && *wanted != '\0') return resolve(wanted, "KT_KERNEL_ISA");
  for (const IsaInfo& info : isas()) {
    if (info.why.empty()) return info.name;
  }
  return "portable";
}

void force_isa(const std::string& name) {
  const std::string resolved = name.empty() ? "" : resolve(name, "isa");
  const std::scoped_lock lock(forced_mutex);
  forced = resolved;
}

const Kernels& kernels(std::string_view isa, std::string_view format) {
  const std::string name = isa.empty() ? default_isa() : resolve(std::string(isa), "isa");
  for (const Kernels* k = tables_of(name); k->format != nullptr; ++k) {
    if (format == k->format) return *k;
  }
  std::string known;
  for (const std::string& f : formats()) known += (known.empty() ? "" : ", ") + f;
  throw std::invalid_argument("format is '" + std::string(format) + "', wanted one of: " + known);
}

}  // namespace kt
