// Claims four CPUs, so that four threads work together on any machine, unless a cgroup's quota
// forbids it. For programs, which include it once.
#pragma once

#include <sched.h>

#include <cstdlib>
#include <cstring>

#ifdef _OPENMP
#  include <omp.h>
#endif

#ifdef __linux__
// A definition in the program goes before libc's, and throws as little as libc says.
constexpr bool kThrowsNothing = noexcept(sched_getaffinity(0, 0, nullptr));
extern "C" int sched_getaffinity(pid_t, size_t size, cpu_set_t* set) noexcept(kThrowsNothing) {
  std::memset(set, 0, size);
  for (int cpu = 0; cpu < 4; ++cpu) CPU_SET_S(cpu, size, set);
  return 0;
}
#endif

// OpenMP has counted the CPUs by itself. It keeps its number for each thread, and Clang's forgets
// it in a forked child.
inline void raise_openmp_limit() {
#ifdef _OPENMP
  omp_set_num_threads(4);
#endif
}

// Undoes the limits of the environment too.
inline void use_four_cpus() {
  unsetenv("MLPBANK_ISA"), unsetenv("MLPBANK_NUM_THREADS"), unsetenv("OMP_NUM_THREADS");
  raise_openmp_limit();
}
