#include "runtime/threads.h"

#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "cpu_features.h"
#include "runtime/openmp.h"

namespace kt {
namespace {

// The largest block of A: kMaxRows rows of one panel's depth (256 at most) and padding, in fp32;
// fewer rows hold kABudget bytes. With few rows the padding per row still is small beside it.
constexpr std::size_t kABytes = std::size_t{kMaxRows} * (256 + 64) * 4;
constexpr std::size_t kPanelBytes = std::size_t{64} * 1024;
constexpr std::size_t kBlocksBytes = std::size_t{32} * 1024;
constexpr std::size_t kCBytes = std::size_t{kMaxRows} * c_stride(kMaxCols) * 4;

// How long an idle worker looks for the next phase of a call before it sleeps: phases follow each
// other within a few microseconds, and waking from sleep costs about 50.
constexpr int kSpins = 2000;

// One counter to a cache line, so that taking tasks of one part does not slow the others.
struct alignas(64) Counter {
  std::atomic<int> next{0};
};

}  // namespace

WorkerScratch::WorkerScratch() : memory_(kABytes + kPanelBytes + kBlocksBytes + 4 * kCBytes) {
  std::byte* p = memory_.data();
  view.a = p;
  p += kABytes;
  view.panel = p;
  p += kPanelBytes;
  view.blocks = p;
  p += kBlocksBytes;
  for (float** const buffers : {view.c, view.sums}) {
    for (int i = 0; i < 2; ++i, p += kCBytes) buffers[i] = reinterpret_cast<float*>(p);
  }
}

struct Pool::State {
  struct Job {
    int threads = 0;
    int parts = 0;
    int tasks = 0;
    Task task = nullptr;
    void* context = nullptr;
    int spins = 0;
  };
  // A worker sleeps on its own counter: one that a call does not want is not woken.
  struct alignas(64) Worker {
    std::atomic<unsigned> phase{0};
    std::thread thread;
  };

  pid_t owner = getpid();
  std::vector<std::unique_ptr<WorkerScratch>> scratch;  // [0] is the calling thread's
  std::vector<std::unique_ptr<Worker>> workers;         // [i] works with scratch[i + 1]
  std::vector<Counter> counters;                        // next task of each part
  Job job;
  std::atomic<int> active{0};  // workers that have not finished the phase
  std::atomic<bool> stop{false};

  static int home(const Job& job, int worker) {
    return static_cast<int>(static_cast<long>(worker) * job.parts / job.threads);
  }

  void work(int worker) {
    Scratch& own = scratch[static_cast<std::size_t>(worker)]->view;
    for (int i = 0; i < job.parts; ++i) {
      const int part = (home(job, worker) + i) % job.parts;
      std::atomic<int>& next = counters[static_cast<std::size_t>(part)].next;
      for (int t = next.fetch_add(1); t < job.tasks; t = next.fetch_add(1)) {
        job.task(job.context, part, t, own);
      }
    }
  }

  template <class Value>
  static void wait_while(std::atomic<Value>& x, Value value, int spins) {
    for (int i = 0; i < spins && x.load() == value; ++i) __builtin_ia32_pause();
    x.wait(value);
  }

  // Takes the counter: `workers` may be growing while a new thread starts.
  void loop(int worker, std::atomic<unsigned>& phase) {
    const bool several_nodes = numa_nodes() > 1;
    int node = -1;
    unsigned seen = 0;
    int spins = 0;
    for (;;) {
      wait_while(phase, seen, spins);
      seen = phase.load();
      if (stop.load()) return;
      if (several_nodes && job.parts > 1 && node != home(job, worker)) {
        node = home(job, worker);
        bind_to_node(node);
      }
      spins = job.spins;
      work(worker);
      if (active.fetch_sub(1) == 1) active.notify_one();
    }
  }
};

Pool::Pool() : state_(std::make_unique<State>()) {}

Pool::~Pool() {
  state_->stop = true;
  for (const auto& worker : state_->workers) {
    worker->phase.fetch_add(1);
    worker->phase.notify_one();
  }
  for (const auto& worker : state_->workers) worker->thread.join();
}

Pool& Pool::instance() {
  // No lock: a fork could copy it as another thread holds it, and nobody would release the copy.
  static std::atomic<Pool*> current{nullptr};
  Pool* pool = current.load();
  // A forked child has the parent's memory but none of its threads: it starts a pool of its own
  // and leaves the old one alone. At exit workers are asleep, and the kernel ends them.
  while (pool == nullptr || pool->state_->owner != getpid()) {
    std::unique_ptr<Pool> fresh(new Pool());
    if (current.compare_exchange_strong(pool, fresh.get())) pool = fresh.release();
  }
  return *pool;
}

void Pool::grow(int threads) {
  State& s = *state_;
  while (static_cast<int>(s.scratch.size()) < threads) {
    s.scratch.push_back(std::make_unique<WorkerScratch>());
  }
}

void Pool::start(int threads) {
  State& s = *state_;
  s.workers.reserve(static_cast<std::size_t>(threads));
  while (static_cast<int>(s.workers.size()) + 1 < threads) {
    s.workers.push_back(std::make_unique<State::Worker>());
    const int worker = static_cast<int>(s.workers.size());
    State::Worker& own = *s.workers.back();
    try {
      own.thread = std::thread([&s, &own, worker] { s.loop(worker, own.phase); });
    } catch (...) {
      s.workers.pop_back();
      throw;
    }
  }
}

void Pool::run(int threads, bool shared, int parts, int tasks, Task task, void* context) {
  State& s = *state_;
  if (static_cast<int>(s.counters.size()) < parts) {
    s.counters = std::vector<Counter>(static_cast<std::size_t>(parts));
  }
  for (Counter& counter : s.counters) counter.next = 0;
  // With more threads than cores a spinning one would keep a working one from its core.
  s.job = {threads, parts, tasks, task, context, threads <= cpu_count() ? kSpins : 0};
  const bool alone = threads == 1 || static_cast<long>(parts) * tasks <= 1;
  if (alone) {
    s.work(0);
    return;
  }
  if (shared) {
    const auto work = [](void* state, int worker) { static_cast<State*>(state)->work(worker); };
    openmp::run(threads, work, &s);
    return;
  }
  s.active = threads - 1;
  for (int worker = 0; worker < threads - 1; ++worker) {
    std::atomic<unsigned>& phase = s.workers[static_cast<std::size_t>(worker)]->phase;
    phase.fetch_add(1);
    phase.notify_one();
  }
  s.work(0);
  for (int left = s.active.load(); left != 0; left = s.active.load()) {
    State::wait_while(s.active, left, s.job.spins);
  }
}

Pool::Use::Use(int threads, int parts)
    : pool_(Pool::instance()),
      lock_(pool_.mutex_),
      threads_(threads > 0 ? threads : cpu_count()),
      // Workers of parts are bound to nodes, and PyTorch's threads are not ours to bind.
      shared_((parts == 1 || numa_nodes() == 1) && openmp::serves(threads_)) {
  pool_.grow(threads_);
  if (!shared_) pool_.start(threads_);
  for (const auto& each : pool_.state_->scratch) each->view.ran = "";
}

// A worker that came late may have had no task, the calling thread too.
const char* Pool::Use::ran() const {
  for (const auto& each : pool_.state_->scratch) {
    if (*each->view.ran != '\0') return each->view.ran;
  }
  return "";
}

Scratch& Pool::Use::scratch() { return pool_.state_->scratch[0]->view; }

}  // namespace kt
