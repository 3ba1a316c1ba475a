#include "runtime/memory.h"

#include <sys/mman.h>

#include <new>

namespace kt {

Memory::Memory(std::size_t bytes) {
  if (bytes == 0) return;
  // Whole huge pages, so that the last one is a huge page too.
  constexpr std::size_t kHuge = std::size_t{2} << 20;
  const std::size_t unit = bytes >= kHuge ? kHuge : std::size_t{4096};
  const std::size_t size = (bytes + unit - 1) / unit * unit;
  void* const p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  madvise(p, size, MADV_HUGEPAGE);  // advice: without it pages are small
  data_ = static_cast<std::byte*>(p);
  size_ = size;
}

Memory::~Memory() {
  if (data_ != nullptr) munmap(data_, size_);
}

void Arena::reset(std::size_t bytes) {
  used_ = 0;
  if (bytes > memory_.size()) {
    memory_ = Memory();  // the old one first: both need not exist at once
    memory_ = Memory(bytes);
  }
}

}  // namespace kt
