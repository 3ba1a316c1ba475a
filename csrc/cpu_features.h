// What this CPU and its operating system offer. (Not "features.h": glibc has one of that name.)
#pragma once

#include <string>

namespace kt {

// What the CPU lacks for an instruction set of the registry, what others need too only where that
// is all, "" if nothing: an instruction is usable if CPUID reports it and XCR0 says that the kernel
// saves its registers (Intel SDM vol. 1, 14.3 and 15.2). Linux saves the tiles of AMX only for
// processes that ask: this does.
std::string missing_features(const std::string& isa);

// Whether the set, which is listed as the better one, is slower here than the next of the registry.
bool is_slower_than_next(const std::string& isa);

// Cores that this process may use (its affinity mask), and NUMA nodes of the machine.
int cpu_count();
int numa_nodes();

// Keeps the calling thread on the node's cores that the process may use; does nothing where there
// are none.
void bind_to_node(int node);

}  // namespace kt
