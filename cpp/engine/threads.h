// How many threads may work (cpu_budget.cpp), and sharing work out among them (threads.cpp).
#pragma once

#include <cstdint>

namespace mlpbank {

// How many threads may work, at least 1: the least of the limits below. A limit of 0 is none.
struct CpuBudget {
  int threads;
  const char* reason;   // the name of the least limit
  int own_variable;     // MLPBANK_NUM_THREADS
  int openmp_variable;  // OMP_NUM_THREADS
  int affinity;         // CPUs this process may run on
  double cgroup;        // its cgroups' CPU quota, which counts rounded up
};

// Read anew at every call. An MLPBANK_NUM_THREADS that is not a positive integer throws
// std::invalid_argument; such an OMP_NUM_THREADS, which is not ours, is ignored. `root` stands
// before the path of every file that is read, for tests.
CpuBudget cpu_budget(const char* root = "");

// CPUs that cgroup quotas (v1 and v2, of this process's group and all above it) leave the process;
// 0: there is no quota.
double cgroup_cpus(const char* root = "");

// Shorter work is not shared, even with helpers that are awake: handing it over and waiting for the
// last chunk costs 1 to 2 us. Estimates of tiny models are up to three times too long.
constexpr double kShareNanoseconds = 15000;

// Work to share out: body(context, begin, end) over the tasks [0, tasks), `chunk` of them at a
// time. The body must not throw.
using ChunkBody = void (*)(void* context, int64_t begin, int64_t end);
struct ChunkedWork {
  int64_t tasks;
  int64_t chunk;
  double nanoseconds;  // roughly, for all of it on one thread
};

// Runs the work on the calling thread and on helpers that are free, `threads` in all at most. Each
// takes chunk by chunk of a range of its own and then chunks of the others. So a core that another
// process takes delays one chunk and not half of the work. Helpers that have not begun are not
// waited for. The threads of all calls together stay within the CPU budget, beside one for each
// caller. Serial inside another OpenMP region. After a fork the child starts its own helpers when
// it needs them.
void run_chunks(int threads, const ChunkedWork& work, ChunkBody body, void* context);

template <class Body>
void parallel_for(int threads, const ChunkedWork& work, Body body) {
  run_chunks(
      threads, work,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); },
      &body);
}

}  // namespace mlpbank
