// One OpenMP team of helpers for the whole process serves all calls.
//
// It enters its parallel region once and stays there. A region for each call would end in a barrier
// that waits for every thread of the team, also for one that another process keeps off its core
// (measured in docs/internals.md, "One team of helpers"). Settings of OpenMP (omp_set_num_threads,
// threadpoolctl) and calls from the user's own regions count at every call.
#include <omp.h>

#include <chrono>
#include <exception>
#include <future>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "engine/team.h"

namespace mlpbank {
namespace {

// How many of `wanted` threads the system grants at once (RLIMIT_NPROC, a cgroup's limit of pids,
// memory). libgomp ends the process when it is refused one, so they are tried first.
int creatable_threads(int wanted) noexcept {
  std::vector<std::thread> tried;
  std::mutex all_started;
  try {
    tried.reserve(static_cast<std::size_t>(wanted));
    const std::lock_guard lock(all_started);
    while (static_cast<int>(tried.size()) < wanted) {
      tried.emplace_back([&] { const std::lock_guard wait(all_started); });
    }
  } catch (const std::exception&) {  // system_error or bad_alloc
  }
  for (std::thread& thread : tried) thread.join();
  return static_cast<int>(tried.size());
}

}  // namespace

const char* const kTeamKind = "OpenMP";

// The first helper starts the rest, so that no thread of the user's leads the team.
int start_team(int helpers, void (*serve)(void*), void* context) {
  std::promise<int> granted;
  std::future<int> number = granted.get_future();
  auto lead = [=, promise = std::move(granted)]() mutable {
    const int others = creatable_threads(helpers - 1);
    promise.set_value(1 + others);
    // A thread still counts for a moment after join(), which matters next to the limit.
    if (others > 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
#pragma omp parallel num_threads(1 + others)
    serve(context);
  };
  try {
    std::thread(std::move(lead)).detach();
  } catch (const std::system_error&) {
    return 0;
  }
  return number.get();
}

int team_limit() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

}  // namespace mlpbank
