// Claims eight CPUs. Stands before libc's function by LD_PRELOAD.
#include <sched.h>

#include <cstring>

extern "C" int sched_getaffinity(pid_t, size_t size, cpu_set_t* set) noexcept {
  std::memset(set, 0, size);
  for (int cpu = 0; cpu < 8; ++cpu) CPU_SET_S(cpu, size, set);
  return 0;
}
