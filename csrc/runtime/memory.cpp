#include "runtime/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <system_error>

namespace kt {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHuge = std::size_t{2} << 20;

constexpr std::size_t round_up(std::size_t bytes, std::size_t to) {
  return (bytes + to - 1) / to * to;
}

[[noreturn]] void fail(const std::string& what, const std::string& folder, int error) {
  throw std::filesystem::filesystem_error(what, folder,
                                          std::error_code(error, std::generic_category()));
}

// A file that is closed when the mapping has taken it over, or when there is none.
class File {
 public:
  explicit File(const std::string& folder) {
    std::string name = folder + "/kt_kernel-XXXXXX";
    descriptor_ = mkostemp(name.data(), O_CLOEXEC);
    if (descriptor_ < 0) fail("cannot make a file", folder, errno);
    unlink(name.c_str());
  }
  ~File() { close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  [[nodiscard]] int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace

Memory::Memory(std::size_t bytes, const std::string& folder) {
  const std::size_t size = round_up(bytes, kPage);
  if (size == 0) return;
  const File file(folder);
  // All of it now: a page that finds no room when it is written ends the process. In pieces that
  // are done before the next of a timer's signals, which interrupt it on some file systems.
  constexpr std::size_t kPiece = std::size_t{64} << 20;
  for (std::size_t at = 0; at < size; at += kPiece) {
    const std::size_t piece = std::min(kPiece, size - at);
    int error = EINTR;
    while (error == EINTR) {
      error = posix_fallocate(file.descriptor(), static_cast<off_t>(at), static_cast<off_t>(piece));
    }
    if (error != 0) fail("no room for " + std::to_string(size) + " bytes", folder, error);
  }
  void* const p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor(), 0);
  if (p == MAP_FAILED) fail("cannot map a file", folder, errno);
  data_ = static_cast<std::byte*>(p);
  size_ = size;
}

Memory::Memory(std::size_t bytes) {
  if (bytes == 0) return;
  // Huge pages up to the last one that is filled, small ones behind it: a huge page is resident
  // whole, and a layer of 8 MB would take a fifth more. The kernel puts only whole numbers of huge
  // pages on their boundary, so one more is mapped, and what lies around the piece given back.
  const std::size_t size = round_up(bytes, kPage);
  const std::size_t spare = size >= kHuge ? kHuge : 0;
  void* const p =
      mmap(nullptr, size + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(p);
  size_ = size;
  if (spare != 0) {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    const std::size_t before = round_up(address, kHuge) - address;
    data_ += before;
    if (before > 0) munmap(p, before);
    if (before < spare) munmap(data_ + size, spare - before);
  }
  madvise(data_, size, MADV_HUGEPAGE);  // advice: without it pages are small
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
