// One team of helpers for the whole process serves all calls: one set of threads for any number of
// callers, and a clean start in a forked child.
#include "engine/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "engine/float_mode.h"
#include "engine/team.h"

namespace mlpbank {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// A helper looks for new work this long before it sleeps; callers in a loop find it awake.
constexpr microseconds kHelperSpin{50};
// A caller looks this long whether its last helper has finished before it sleeps. Sleeping frees
// the core for a helper that was pushed off its own.
constexpr microseconds kCallerSpin{20};
// Shorter calls wake no helper: the system call costs the caller some 3 us, and helpers arrive 5 to
// 50 us later. Exception: calls that follow each other within kHelperSpin.
constexpr double kWakeNanoseconds = 30000;
// When other processes keep the cores busy, a woken helper may be given its caller's core, where it
// only keeps the caller waiting. Such a helper sleeps at once, and for this long only long calls
// wake any (measured in docs/internals.md, "Crowded cores").
constexpr microseconds kCrowded{2000};
constexpr double kLongNanoseconds = 1e6;
// Helpers that one thread wakes; they wake the others.
constexpr int kWokenByOne = 2;
// Delay before helpers that the system refused are asked for again. It doubles up to the longest.
constexpr std::chrono::seconds kAskAgain{1}, kAskAgainAtMost{64};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The CPU that the calling thread runs on, -1 where the system does not tell.
inline int current_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Polls `done` for `limit`. Returns whether it became true.
template <class Done>
bool spin_until(microseconds limit, Done done) {
  const auto deadline = Clock::now() + limit;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      pause();
    }
  } while (Clock::now() < deadline);
  return done();
}

// One call's work, on its caller's stack. The pool's mutex guards fields that are not atomic.
//
// Each thread takes chunk by chunk of a range of its own and then helps with the others'. So calls
// that follow each other find the same models in the same core's cache, and no thread waits for a
// counter that another core has just changed.
class Job {
 public:
  Job(const ChunkedWork& work, ChunkBody body, void* context, int threads)
      : is_long(work.nanoseconds >= kLongNanoseconds),
        openings(threads - 1),
        chunk_(work.chunk),
        body_(body),
        context_(context),
        ranges_(std::min(threads, kMaxRanges)) {
    const int64_t chunks = (work.tasks + chunk_ - 1) / chunk_;
    for (int i = 0; i < ranges_; ++i) {
      range_[i].next = chunks * i / ranges_ * chunk_;
      range_[i].end = std::min(chunks * (i + 1) / ranges_ * chunk_, work.tasks);
    }
  }

  void run(int thread) {
    const DefaultFloatMode mode;
    for (int i = 0; i < ranges_; ++i) {
      Range& range = range_[(thread + i) % ranges_];
      for (int64_t begin;
           (begin = range.next.fetch_add(chunk_, std::memory_order_relaxed)) < range.end;) {
        body_(context_, begin, std::min(begin + chunk_, range.end));
      }
    }
  }

  // Lets a helper in. It gets a number; the caller has 0.
  int enter() {
    const int thread = ++joined_;
    if (range_[thread % ranges_].helpers.fetch_add(1, std::memory_order_relaxed) == 0)
      occupied_.fetch_add(1, std::memory_order_relaxed);
    return thread;
  }
  // Lets it out, without a lock: each counter is shared by few threads, however many there are.
  // Returns whether it was the last one. The job may be gone when the last one has left.
  bool leave(int thread) {
    return range_[thread % ranges_].helpers.fetch_sub(1, std::memory_order_acq_rel) == 1 &&
           occupied_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }
  bool is_empty() const { return occupied_.load(std::memory_order_acquire) == 0; }

  const bool is_long;
  const int caller_cpu = current_cpu();
  int openings;        // helpers that may still join
  bool wakes = false;  // whether it may wake helpers that sleep
  Job* next_job = nullptr;

 private:
  static constexpr int kMaxRanges = 16;  // more threads than that share ranges
  struct alignas(64) Range {
    std::atomic<int64_t> next;
    int64_t end;
    std::atomic<int> helpers{0};  // that started with this range and have not left
  };

  int64_t chunk_;
  ChunkBody body_;
  void* context_;
  int ranges_;
  int joined_ = 0;
  std::atomic<int> occupied_{0};  // ranges that have helpers
  Range range_[kMaxRanges];
};

// Blocks the signals that a process is sent, for its lifetime and for the threads started
// meanwhile: they belong to the program's own threads, which may wait for them. Signals of faults
// stay.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t signals;
    sigfillset(&signals);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS})
      sigdelset(&signals, fault);
    pthread_sigmask(SIG_BLOCK, &signals, &saved_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t saved_;
};

class Pool {
 public:
  // Starts up to `helpers` more helpers, as many as the system grants. Returns how many started.
  // May throw std::bad_alloc before any has started.
  int start(int helpers) {
    if (helpers == 0) return 0;
    const BlockedSignals blocked;
    return start_team(helpers, [](void* self) { static_cast<Pool*>(self)->serve(); }, this);
  }

  // Whether a call of this length may wake helpers that sleep.
  bool may_wake(double nanoseconds) {
    if (nanoseconds >= kLongNanoseconds) return true;
    if (nanoseconds < kWakeNanoseconds && any_awake()) return false;
    const int64_t now = Clock::now().time_since_epoch().count();
    if (now < crowded_until_.load(std::memory_order_relaxed)) return false;
    return nanoseconds >= kWakeNanoseconds ||
           Clock::duration(now - last_small_.exchange(now, std::memory_order_relaxed)) <
               kHelperSpin;
  }

  bool any_awake() const { return awake_.load(std::memory_order_relaxed) > 0; }

  void run(Job& job, bool wake) {
    int more;
    {
      const std::lock_guard lock(mutex_);
      job.wakes = wake;
      job.next_job = first_;
      first_ = &job;
      openings_ += job.openings;
      more = wake ? choose_sleepers() : 0;
    }
    wake_up(more);
    job.run(0);
    {
      const std::lock_guard lock(mutex_);
      Job** link = &first_;
      while (*link != &job) link = &(*link)->next_job;
      *link = job.next_job;
      openings_ -= job.openings;
    }
    // Now no helper can join; those inside finish their last chunk.
    const auto finished = [&] { return job.is_empty(); };
    if (spin_until(kCallerSpin, finished)) return;
    std::unique_lock lock(mutex_);
    ++waiting_callers_;
    done_.wait(lock, finished);
    --waiting_callers_;
  }

 private:
  void serve() {
    bool crowded = false;
    while (true) {
      const auto [job, thread] = join(crowded);
      job->run(thread);
      crowded = !job->is_long && job->caller_cpu >= 0 && job->caller_cpu == current_cpu();
      if (!job->leave(thread)) continue;
      const std::lock_guard lock(mutex_);
      if (waiting_callers_ > 0) done_.notify_all();
    }
  }

  // Waits for a job with an opening and joins it. Returns the job and the thread's number in it.
  // The caller is number 0.
  std::pair<Job*, int> join(bool crowded) {
    if (crowded) {
      crowded_until_ = (Clock::now() + kCrowded).time_since_epoch().count();
    } else {
      ++awake_;
      spin_until(kHelperSpin, [&] { return openings_.load(std::memory_order_relaxed) > 0; });
      --awake_;
    }
    std::unique_lock lock(mutex_);
    const bool slept = openings_ == 0;
    ++asleep_;
    while (openings_ == 0) {
      work_.wait(lock);
      notified_ = std::max(0, notified_ - 1);
    }
    --asleep_;
    Job* job = first_;
    while (job->openings == 0) job = job->next_job;
    --openings_;
    --job->openings;
    const int thread = job->enter();
    const int more = slept || job->wakes ? choose_sleepers() : 0;
    lock.unlock();
    wake_up(more);
    return {job, thread};
  }

  // Helpers are woken as a tree: the caller and each helper that joins wake a few. notify_all would
  // take the caller about a microsecond for each helper of the machine. Returns how many this
  // thread is to wake. With the mutex held.
  int choose_sleepers() {
    const int chosen = std::min({kWokenByOne, asleep_ - notified_, openings_ - notified_});
    notified_ += std::max(0, chosen);
    return chosen;
  }
  void wake_up(int helpers) {
    for (; helpers > 0; --helpers) work_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable work_, done_;
  Job* first_ = nullptr;
  std::atomic<int> openings_{0};        // helpers that may still join, of all jobs
  std::atomic<int> awake_{0};           // helpers that look for work without sleeping
  std::atomic<int64_t> last_small_{0};  // when a call last found none awake
  std::atomic<int64_t> crowded_until_{0};
  int asleep_ = 0;
  int notified_ = 0;  // sleepers that were woken and have not noticed
  int waiting_callers_ = 0;
};

std::mutex pool_mutex;
Pool* pool = nullptr;        // never destroyed: its threads run until the process ends
std::atomic<int> budget{1};  // its helpers and one caller
int refused = 0;             // helpers that the system did not grant
Clock::time_point ask_again;
Clock::duration ask_again_after;
std::atomic<int> threads_at_work{0};

// Forgets the parent's helpers, which do not exist in a child, and its mutex, whose holder may not
// exist. The budget is read anew: the child may have other CPUs.
void after_fork_in_child() {
  new (&pool_mutex) std::mutex;
  pool = nullptr;
  threads_at_work = 0;
}
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, after_fork_in_child);

// The pool, started at its first use. Threads that were refused then may be granted later: a limit
// counts the threads of all processes of a user or container.
Pool& the_pool() {
  const std::lock_guard lock(pool_mutex);
  if (pool == nullptr) {
    const int wanted = cpu_budget().threads - 1;
    auto started = std::make_unique<Pool>();
    const int granted = started->start(wanted);
    pool = started.release();
    budget = 1 + granted;
    refused = wanted - granted;
    ask_again_after = kAskAgain;
    ask_again = Clock::now() + ask_again_after;
  } else if (refused > 0 && Clock::now() >= ask_again) {
    int granted = 0;
    try {
      granted = pool->start(refused);
    } catch (const std::bad_alloc&) {  // the call can do without
    }
    budget += granted;
    refused -= granted;
    ask_again_after = std::min<Clock::duration>(2 * ask_again_after, kAskAgainAtMost);
    ask_again = Clock::now() + ask_again_after;
  }
  return *pool;
}

// The threads that one call may use: what calls already at work leave of the budget, at least the
// caller's own.
class Share {
 public:
  explicit Share(int wanted) {
    int busy = threads_at_work.load(std::memory_order_relaxed);
    do {
      threads_ = std::max(1, std::min(wanted, budget - busy));
    } while (
        !threads_at_work.compare_exchange_weak(busy, busy + threads_, std::memory_order_relaxed));
  }
  ~Share() { threads_at_work.fetch_sub(threads_, std::memory_order_relaxed); }
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;
  int threads() const { return threads_; }

 private:
  int threads_;
};

}  // namespace

void run_chunks(int threads, const ChunkedWork& work, ChunkBody body, void* context) {
  if (work.tasks <= 0) return;
  const int64_t chunks = (work.tasks + work.chunk - 1) / work.chunk;
  threads = static_cast<int>(std::min<int64_t>(threads, chunks));
  const auto alone = [&] {
    const DefaultFloatMode mode;
    body(context, 0, work.tasks);
  };
  if (threads <= 1 || work.nanoseconds < kShareNanoseconds) return alone();
  threads = std::min(threads, team_limit());
  if (threads <= 1) return alone();
  Pool& helpers = the_pool();
  const Share share(threads);
  const bool wake = share.threads() > 1 && helpers.may_wake(work.nanoseconds);
  if (share.threads() == 1 || !(wake || helpers.any_awake())) return alone();
  Job job(work, body, context, share.threads());
  helpers.run(job, wake);
}

}  // namespace mlpbank
