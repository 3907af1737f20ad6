// Claims four CPUs, so that four threads work together on any machine, unless a cgroup's quota
// forbids it. For programs, which include it once.
#pragma once

#include <sched.h>

#include <cstring>

// A definition in the program goes before libc's.
extern "C" int sched_getaffinity(pid_t, size_t size, cpu_set_t* set) noexcept {
  std::memset(set, 0, size);
  for (int cpu = 0; cpu < 4; ++cpu) CPU_SET_S(cpu, size, set);
  return 0;
}
