// Which kernels run: the registry's tables, and the choice among them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels.h"

namespace kt {

struct IsaInfo {
  std::string name;
  std::string family;
  std::string why;  // what speaks against it here; "" if it is supported
};

// The registry's instruction sets in order of preference, and its formats.
const std::vector<IsaInfo>& isas();
std::vector<std::string> formats();

// The default: the first supported one, or what KT_KERNEL_ISA asks for. Throws
// std::invalid_argument if that is unknown or not supported here.
std::string default_isa();

// Changes the default for layers made from now on; "" restores it. Throws std::invalid_argument.
void force_isa(const std::string& name);

// The table of a pair; `isa` may be "" for the default. Throws std::invalid_argument.
const Kernels& kernels(std::string_view isa, std::string_view format);

}  // namespace kt
