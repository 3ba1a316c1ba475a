// Memory straight from the kernel: zeroed when first touched (so on the NUMA node of the thread
// that does), in huge pages where the system grants them, given back on destruction. Or a file's
// pages, of which the kernel keeps in memory what there is room for.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace kt {

class Memory {
 public:
  Memory() = default;
  explicit Memory(std::size_t bytes);  // throws std::bad_alloc
  // On disk: a file in this folder, without a name, so that it is gone with the process however
  // that ends. Throws std::filesystem::filesystem_error where it has no room.
  Memory(std::size_t bytes, const std::string& folder);
  ~Memory();
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Consecutive pieces of one Memory, which grows (losing its contents) and is kept between uses:
// no allocation in steady state. Ask for all sizes first, then allocate, then take them in order.
class Arena {
 public:
  // Bytes that pieces of these sizes need together.
  static std::size_t padded(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }
  void reset(std::size_t bytes);
  template <class T>
  T* take(std::size_t count) {
    auto* const piece = reinterpret_cast<T*>(memory_.data() + used_);
    used_ += padded(count * sizeof(T));
    return piece;
  }
  [[nodiscard]] std::size_t size() const { return memory_.size(); }

 private:
  static constexpr std::size_t kAlign = 256;
  Memory memory_;
  std::size_t used_ = 0;
};

}  // namespace kt
