// How many threads may work, and sharing work out among them. With its .cpp the only place that knows OpenMP.
#pragma once

#include <cstdint>

namespace mlpbank {

// min(MLPBANK_NUM_THREADS, OMP_NUM_THREADS, the CPUs this process may run on, its cgroup's CPU quota rounded up), at
// least 1. Read anew at every call. A variable that is not a positive integer throws std::invalid_argument
// (OMP_NUM_THREADS, which others own, is ignored then).
int cpu_budget();

// CPUs that cgroup quotas (v1 and v2, this process's group and all above it) leave it, 0 where there is no quota.
// `root` stands before every path read, for tests.
double cgroup_cpus(const char* root = "");

// Runs body(context, begin, end) over [0, items) in chunks of `chunk`, handed out one after the other to up to
// `threads` threads as each becomes free, so a core that is taken away delays one chunk and not half of the work.
// Threads of all calls together stay within `budget`. Serial when only one is left, inside another parallel region, and
// in a child forked after a team had started (OpenMP's threads do not survive a fork). body must not throw.
using ChunkBody = void (*)(void* context, int64_t begin, int64_t end);
void parallel_chunks(int threads, int64_t items, int64_t chunk, ChunkBody body, void* context);

template <class Body>
void parallel_for(int threads, int64_t items, int64_t chunk, Body body) {
  parallel_chunks(
      threads, items, chunk,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); }, &body);
}

}  // namespace mlpbank
