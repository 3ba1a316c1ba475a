// The worker pool: one per process, made at first use and again in a forked child. The calling
// thread works too, so n threads are n - 1 workers: PyTorch's where they can serve the call, else
// the pool's own, which start when a call first wants them and do not spin between calls.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <type_traits>

#include "kernels.h"
#include "runtime/memory.h"

namespace kt {

// Buffers of one worker and the Scratch that points into them.
class WorkerScratch {
 public:
  WorkerScratch();
  Scratch view;

 private:
  Memory memory_;
};

class Pool {
 public:
  // A task: its part, its index within the part, the worker's buffers.
  using Task = void (*)(void* context, int part, int task, Scratch& scratch);

  // The process's pool, locked for the caller: one call at a time works through it.
  class Use {
   public:
    explicit Use(int threads, int parts = 1);  // throws std::bad_alloc, std::system_error
    // Runs body(part, task, scratch) for every task < tasks of every part < parts. Workers are
    // shared out among the parts and take from the others' when their own part has none left.
    // `body` must not throw.
    template <class Body>
    void run(int parts, int tasks, Body&& body) {
      using B = std::remove_reference_t<Body>;
      pool_.run(
          threads_, shared_, parts, tasks,
          [](void* context, int part, int task, Scratch& scratch) {
            (*static_cast<B*>(context))(part, task, scratch);
          },
          const_cast<void*>(static_cast<const void*>(&body)));
    }
    [[nodiscard]] int threads() const { return threads_; }
    Arena& arena() { return pool_.arena_; }
    Scratch& scratch();  // the calling thread's
    // The instruction set of the products so far, empty before the first.
    [[nodiscard]] const char* ran() const;

   private:
    Pool& pool_;
    std::unique_lock<std::mutex> lock_;
    int threads_;
    bool shared_;  // with PyTorch: on its threads
  };

  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

 private:
  struct State;
  Pool();
  static Pool& instance();
  void grow(int threads);   // buffers
  void start(int threads);  // threads of its own
  void run(int threads, bool shared, int parts, int tasks, Task task, void* context);

  std::unique_ptr<State> state_;
  std::mutex mutex_;
  Arena arena_;
};

}  // namespace kt
