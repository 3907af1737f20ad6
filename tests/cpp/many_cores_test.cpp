// What a call costs on machines with up to 256 CPUs, which are claimed: how often the caller and
// the helpers lock a mutex and wake a thread. It counts what the pool asks the system for.
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "check.h"
#include "engine/threads.h"

using namespace mlpbank;

namespace {

int claimed_cpus = 1;

struct Counts {
  int locks, signals, broadcasts;
};
thread_local Counts own;
std::atomic<int> all_locks{0}, all_signals{0}, all_broadcasts{0};

// glibc's own function. Those of condition variables have an old version besides.
template <class Function>
Function* original(const char* name) {
  void* found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2");
  if (found == nullptr) found = dlsym(RTLD_NEXT, name);
  return reinterpret_cast<Function*>(found);
}

}  // namespace

// OpenMP, where the core uses it, has counted the CPUs by itself.
extern "C" [[gnu::weak]] void omp_set_num_threads(int threads);

// Definitions in the program go before libc's.
extern "C" {
int sched_getaffinity(pid_t, size_t size, cpu_set_t* set) noexcept {
  std::memset(set, 0, size);
  for (int cpu = 0; cpu < claimed_cpus; ++cpu) CPU_SET_S(static_cast<size_t>(cpu), size, set);
  return 0;
}
[[gnu::visibility("default")]] int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  static const auto lock = original<int(pthread_mutex_t*)>("pthread_mutex_lock");
  ++own.locks, ++all_locks;
  return lock(mutex);
}
[[gnu::visibility("default")]] int pthread_cond_signal(pthread_cond_t* condition) noexcept {
  static const auto signal = original<int(pthread_cond_t*)>("pthread_cond_signal");
  ++own.signals, ++all_signals;
  return signal(condition);
}
[[gnu::visibility("default")]] int pthread_cond_broadcast(pthread_cond_t* condition) noexcept {
  static const auto broadcast = original<int(pthread_cond_t*)>("pthread_cond_broadcast");
  ++own.broadcasts, ++all_broadcasts;
  return broadcast(condition);
}
}

namespace {

constexpr double kLong = 1e9;  // nanoseconds: enough to be shared out and to wake threads for

// Waits in each of its first chunks until all threads are at work: so all were woken.
void share_out(int threads, int64_t chunks) {
  static int calls = 0;
  const int call = ++calls;
  std::atomic<int> arrived{0};
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(100);
  parallel_for(threads, {chunks, 1, kLong}, [&](int64_t, int64_t) {
    thread_local int latest = 0;
    if (latest != call) ++arrived;
    latest = call;
    while (arrived < threads && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
  });
  CHECK(arrived == threads);
}

// What calls of `threads` threads may ask for, however many chunks they have.
void check_costs(int threads) {
  CHECK(cpu_budget().threads == threads);
  share_out(threads, threads);  // starts the helpers
  for (const int64_t chunks : {1, 4, 64}) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // most helpers sleep
    own = {};
    all_locks = all_signals = all_broadcasts = 0;
    share_out(threads, chunks * threads);
    const int locks = all_locks, signals = all_signals, broadcasts = all_broadcasts;
    // The pool's start, the job's begin and end, and the wait for the last helper.
    CHECK(own.locks <= 4 && own.signals <= 2 && own.broadcasts == 0);
    // Each helper locks to join and when it is the last to leave, and those of the call before to
    // sleep. Each is woken once, but for wakes that meet one that was about to join.
    CHECK(locks <= 4 * threads + 4 && signals <= threads + 4 && broadcasts <= 1);
    std::printf("%3d threads, %5d chunks: caller %d locks, %d wakes; all %d locks, %d wakes\n",
                threads, static_cast<int>(chunks * threads), own.locks, own.signals, locks,
                signals);
  }
}

TEST(a_call_costs_its_caller_no_more_on_more_cores) {
  claimed_cpus = 256;
  const int most = cpu_budget().threads;
  if (most < claimed_cpus) std::printf("a cgroup's quota allows %d threads only\n", most);
  for (const int threads : {2, 3, 4, 16, 64, 256}) {
    if (threads > most) break;
    std::fflush(stdout);
    const pid_t child = fork();  // with a pool of its own
    CHECK(child >= 0);
    if (child == 0) {
      claimed_cpus = threads;
      if (omp_set_num_threads != nullptr) omp_set_num_threads(threads);
      check_costs(threads);
      std::fflush(stdout);
      _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
}

}  // namespace

int main(int argc, char** argv) {
  unsetenv("MLPBANK_NUM_THREADS"), unsetenv("OMP_NUM_THREADS");
  return run_tests(argc, argv);
}
