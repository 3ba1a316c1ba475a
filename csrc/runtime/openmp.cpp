#include "runtime/openmp.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>

namespace kt::openmp {
namespace {

// GOMP_parallel is what g++ makes of `#pragma omp parallel`; LLVM's runtime has it as well. See
// "Implementing PARALLEL construct" in the manual of libgomp. The others are OpenMP's own.
struct Runtime {
  void (*parallel)(void (*body)(void*), void* context, unsigned threads, unsigned flags) = nullptr;
  int (*max_threads)() = nullptr;
  int (*thread_num)() = nullptr;
  int (*in_parallel)() = nullptr;
};

Runtime runtime;
std::atomic<pid_t> joined{0};  // the process whose threads `runtime` has

template <class Function>
bool find(Function*& function, const char* name) {
  function = reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
  return function != nullptr;
}

}  // namespace

bool join() {
  if (joined.load() != 0) return true;
  Runtime found;
  if (!find(found.parallel, "GOMP_parallel") || !find(found.max_threads, "omp_get_max_threads") ||
      !find(found.thread_num, "omp_get_thread_num") ||
      !find(found.in_parallel, "omp_in_parallel")) {
    return false;
  }
  runtime = found;
  joined = getpid();
  return true;
}

bool serves(int threads) {
  return joined.load() == getpid() && runtime.max_threads() == threads &&
         runtime.in_parallel() == 0;
}

void run(int threads, void (*body)(void* context, int thread), void* context) {
  struct Call {
    void (*body)(void* context, int thread);
    void* context;
  } call{body, context};
  runtime.parallel(
      [](void* data) {
        const auto* one = static_cast<Call*>(data);
        one->body(one->context, runtime.thread_num());
      },
      &call, static_cast<unsigned>(threads), 0);
}

}  // namespace kt::openmp
