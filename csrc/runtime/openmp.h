// PyTorch's threads, those of the OpenMP runtime in this process. After each of PyTorch's products
// they look for more work for milliseconds, on the cores that a call of ours would have: where both
// want as many threads, ours works on theirs.
#pragma once

namespace kt::openmp {

// Finds the runtime among the libraries that were loaded for all to see (RTLD_GLOBAL), as PyTorch
// loads its own. False where there is none.
bool join();

// Whether a call by this thread may run on that many threads of the runtime. Not inside one of its
// parallel regions, where it gives one; not with another number than its next region would have,
// since it ends and starts threads when the number changes; and not in a process forked from the
// one that joined, where its threads are missing. (Who forks after PyTorch's first product and
// joins in the child waits for them forever, as PyTorch's next product would.)
bool serves(int threads);

// Each of the threads, the calling one among them, calls body(context, its number) once. The
// runtime may give fewer than were asked for.
void run(int threads, void (*body)(void* context, int thread), void* context);

}  // namespace kt::openmp
