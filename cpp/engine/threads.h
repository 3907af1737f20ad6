// How many threads may work, and sharing work out among them. With its .cpp the only place that knows OpenMP.
#pragma once

#include <cstdint>

namespace mlpbank {

// How many threads may work: the least of what is limited here, at least 1, and which limit that is. A limit of 0 is
// none.
struct CpuBudget {
  int threads;
  const char* reason;
  int own_variable;     // MLPBANK_NUM_THREADS
  int openmp_variable;  // OMP_NUM_THREADS
  int affinity;         // CPUs this process may run on
  double cgroup;        // its cgroups' CPU quota, which counts rounded up
};

// Read anew at every call. An MLPBANK_NUM_THREADS that is not a positive integer throws std::invalid_argument; such an
// OMP_NUM_THREADS, which others own, is ignored. `root` stands before the path of every file read, for tests.
CpuBudget cpu_budget(const char* root = "");

// CPUs that cgroup quotas (v1 and v2, this process's group and all above it) leave it, 0 where there is no quota.
double cgroup_cpus(const char* root = "");

// Shared with helpers that are awake only from here on: handing over and waiting for the last chunk costs 1 to 2 us.
// (Estimates are on the long side: 1000 x 4-8-2 counts as 13 us and takes 4, of which a second thread would save 0.3.)
constexpr double kShareNanoseconds = 15000;

// Work to share out: body(context, begin, end) over [0, items), `chunk` items at a time. The body must not throw.
using ChunkBody = void (*)(void* context, int64_t begin, int64_t end);
struct ChunkedWork {
  int64_t items;
  int64_t chunk;
  double nanoseconds;  // roughly what one thread would need for all of it: what is too short is not shared
};

// Runs the work on the calling thread and on helpers that are free, `threads` in all at most. Each takes chunk by chunk
// of a share of its own and then what is left of the others', so a core that is taken away delays one chunk and not
// half of the work, and a helper that does not get to run in time is not waited for. Threads of all calls together stay
// within the CPU budget, but every caller may work itself. Serial inside another OpenMP region. After a fork the child
// starts helpers of its own when it needs them.
void run_chunks(int threads, const ChunkedWork& work, ChunkBody body, void* context);

template <class Body>
void parallel_for(int threads, const ChunkedWork& work, Body body) {
  run_chunks(
      threads, work, [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); },
      &body);
}

}  // namespace mlpbank
