// Sharing work out, many callers at once, and loading beside predicting. Also runs under
// ThreadSanitizer.
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "engine/engine.h"
#include "engine/threads.h"
#include "four_cpus.h"
#include "network.h"
#include "weights/epochs.h"

using namespace mlpbank;

#ifdef __GLIBC__
namespace {

std::atomic<int> created{0};                         // threads, those that were refused included
std::atomic<int> first_refused{0}, last_refused{0};  // of these, counted from 1

}  // namespace

// The definition in the program goes before libc's.
extern "C" [[gnu::visibility("default")]] int pthread_create(pthread_t* thread,
                                                             const pthread_attr_t* attributes,
                                                             void* (*run)(void*),
                                                             void* argument) noexcept {
  static const auto original =
      reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  const int number = ++created;
  if (number >= first_refused && number <= last_refused) return EAGAIN;
  return original(thread, attributes, run, argument);
}
#endif

namespace {

constexpr double kLong = 1e9;  // nanoseconds: enough to be shared out and to wake threads for

TEST(parallel_for_runs_every_item_once) {
  for (int threads = 1; threads <= 4; ++threads) {
    for (const int64_t items : {0, 1, 2, 3, 7, 64, 1000}) {
      for (const int64_t chunk : {1, 3, 64, 5000}) {
        for (const double nanoseconds : {0.0, 10e3, kLong}) {
          std::vector<std::atomic<int>> runs(static_cast<std::size_t>(items));
          parallel_for(threads, {items, chunk, nanoseconds}, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) ++runs[static_cast<std::size_t>(i)];
          });
          for (const auto& count : runs) CHECK(count == 1);
        }
      }
    }
  }
}

// Each item waits until as many threads as were asked for are at work; with fewer, the wait runs
// out.
void check_uses_the_threads_it_may() {
  for (int threads = 1; threads <= 4; ++threads) {
    const int expected = std::min(threads, cpu_budget().threads);
    std::atomic<int> arrived{0}, inside{0};
    std::atomic<bool> too_many{false};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    parallel_for(threads, {expected, 1, kLong}, [&](int64_t begin, int64_t end) {
      if (++inside > expected) too_many = true;
      arrived += static_cast<int>(end - begin);
      while (arrived < expected && std::chrono::steady_clock::now() < deadline)
        std::this_thread::yield();
      --inside;
    });
    CHECK(std::chrono::steady_clock::now() < deadline);
    CHECK(arrived == expected && !too_many);
  }
}

TEST(parallel_for_uses_the_threads_it_may) { check_uses_the_threads_it_may(); }

// The threads of all calls together stay within the budget, beside one for each caller.
TEST(calls_share_the_budget) {
  constexpr int kCallers = 3;
  std::atomic<int> inside{0}, most{0};
  const auto call = [&] {
    raise_openmp_limit();
    for (int round = 0; round < 50; ++round) {
      parallel_for(4, {40, 1, kLong}, [&](int64_t, int64_t) {
        const int now = ++inside;
        for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) continue;
        std::this_thread::sleep_for(std::chrono::microseconds(20));
        --inside;
      });
    }
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; ++i) callers.emplace_back(call);
  for (std::thread& caller : callers) caller.join();
  CHECK(inside == 0 && most <= cpu_budget().threads - 1 + kCallers);
}

// ThreadSanitizer does not see through forks of processes with threads.
#ifndef __SANITIZE_THREAD__

// A child has none of its parent's helpers. It starts its own, also when it was forked amid work.
TEST(forked_child_shares_out_its_work) {
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) parallel_for(4, {100, 1, kLong}, [](int64_t, int64_t) {});
  });
  for (int round = 0; round < 10; ++round) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(60);  // ends a child that hangs
      raise_openmp_limit();
      check_uses_the_threads_it_may();
      _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  stop = true;
  busy.join();
}

#  ifdef __GLIBC__
// How many threads were at work at once.
int most_at_work() {
  std::atomic<int> inside{0}, most{0};
  parallel_for(4, {40, 1, kLong}, [&](int64_t, int64_t) {
    const int now = ++inside;
    for (int before = most; before < now && !most.compare_exchange_weak(before, now);) continue;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    --inside;
  });
  return most;
}

// While the system refuses threads, calls use the granted ones; later calls have all helpers. Of
// the created threads, `first` to `last` are refused. With OpenMP the first one starts the others.
void check_refused_helpers_are_asked_for_again(int first, int last, int granted) {
  const int expected = std::min(4, cpu_budget().threads);
  if (expected < 4) return;  // a cgroup's quota
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(60);
    raise_openmp_limit();
    created = 0, first_refused = first, last_refused = last;
    const auto began = std::chrono::steady_clock::now();
    int most = most_at_work();
    CHECK(most <= 1 + granted);
    const int tries = created;
    CHECK(tries >= first);
    for (int i = 0; i < 5; ++i) most_at_work();
    const bool at_once = std::chrono::steady_clock::now() - began < std::chrono::milliseconds(900);
    CHECK(!at_once || created == tries);  // not asked at every call
    first_refused = last_refused = 0;
    while (most < expected) most = std::max(most, most_at_work());  // until alarm() ends it
    check_uses_the_threads_it_may();
    const int all = created;
    for (int i = 0; i < 50; ++i) most_at_work();
    CHECK(created == all);  // nothing is missing any more
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

TEST(refused_helpers_are_asked_for_again) {
  check_refused_helpers_are_asked_for_again(1, 1000, 0);
  check_refused_helpers_are_asked_for_again(2, 2, 1);
  check_refused_helpers_are_asked_for_again(3, 3, 2);
}
#  endif

#endif

#ifdef _OPENMP
TEST(parallel_for_is_serial_inside_a_parallel_region) {
  std::atomic<int> wrong{0};
#  pragma omp parallel num_threads(2)
  {
    const std::thread::id self = std::this_thread::get_id();
    parallel_for(4, {100, 1, kLong},
                 [&](int64_t, int64_t) { wrong += std::this_thread::get_id() != self; });
  }
  CHECK(wrong == 0);
}

#endif

// Threads predict without a pause beside one that loads. Each result is of one revision. A forward
// that starts after a load has returned sees it. A load does not wait for forwards that are still
// to come.
TEST(loading_while_others_predict) {
  const Network net({33, 40, 17}, 60);
  const Parameters other = net.parameters.negated();
  const Floats x = net.inputs(60, 4);
  const std::size_t block = 4 * 17;
  for (const LayoutKind kind : kLayouts) {
    const auto weights = net.weights(kind);
    const BatchedInference inference(weights, Engine(2, ""));
    Floats results[2] = {forward(inference, x, 4), {}};
    weights->load(0, 60, other.views(), 1);
    results[1] = forward(inference, x, 4);
    // So many take seconds; the loading thread runs long before.
    constexpr int kReaders = 4, kForwardsPerLoad = 1000000;
    std::atomic<bool> stop{false}, starved{false};
    std::atomic<int> mixed{0}, forwards_since_load{0};
    const auto predict = [&](int threads) {
      while (!stop && !starved) {
        const Floats y = forward(inference, x, 4, threads);
        for (std::size_t m = 0; m < 60; ++m) {
          const auto is = [&](const Floats& r) {
            return std::memcmp(&y[m * block], &r[m * block], 4 * block) == 0;
          };
          if (!is(results[0]) && !is(results[1])) ++mixed;
        }
        if (++forwards_since_load > kForwardsPerLoad) starved = true;
      }
    };
    std::vector<std::thread> readers;
    for (int i = 0; i < kReaders; ++i) readers.emplace_back(predict, 1 + i % 2);
    for (int turn = 0; turn < 200; ++turn) {
      const Parameters& now = turn % 2 ? other : net.parameters;
      weights->load(0, 60, now.views(), 1);
      forwards_since_load = 0;
      if (turn % 20 < 2) CHECK(same_bits(forward(inference, x, 4), results[turn % 2]));
    }
    stop = true;
    for (std::thread& reader : readers) reader.join();
    CHECK(mixed == 0);
    CHECK(!starved);
  }
}

// A model is looked up once in a call, however many groups of entries it has. Model 1 stays
// unloaded, so that in a tile each entry is looked at.
TEST(entries_of_one_model_are_of_one_revision) {
  const Architecture architecture({{1, 1, Activation::none}});
  constexpr int64_t kEntries = 20000, kRows = 20;
  const std::vector<int64_t> slots(kEntries, 0);
  const Floats x(kEntries * kRows, 0.0f);
  for (const LayoutKind kind : kLayouts) {
    const auto weights = std::make_shared<BatchedWeights>(2, architecture, kind);
    std::atomic<bool> stop{false};
    std::atomic<int64_t> loads{0};
    const auto load = [&] {
      const float bias = static_cast<float>(loads % 1000);
      weights->load(0, 1, {{&bias, &bias}}, 1);
      ++loads;
    };
    load();
    std::thread writer([&] {
      while (!stop) load();
    });
    const BatchedInference inference(weights, Engine(1, ""));
    Floats y(x.size());
    int mixed = 0;
    for (int64_t calls = 0, before = 0; calls<20; calls += loads> before) {
      before = loads;
      inference.forward_models(slots.data(), kEntries, x.data(), kRows, y.data(), {});
      mixed += std::any_of(y.begin(), y.end(), [&](float value) { return value != y[0]; });
    }
    stop = true;
    writer.join();
    CHECK(mixed == 0);
  }
}

// A reader that stands still: what it has seen stays as it is, however often it is replaced, and is
// reclaimed when the reader has left.
TEST(memory_under_a_paused_reader) {
  const Network net({3, 5, 2}, 40);
  const Parameters other = net.parameters.negated();
  using Guard = BatchedWeights::ReadGuard;
  for (const LayoutKind kind : kLayouts) {
    const auto weights = net.weights(kind);
    const auto bytes = static_cast<std::size_t>(weights->layout().block_bytes());
    const auto replace = [&](int times) {
      for (int i = 0; i < times; ++i) {
        const Parameters& now = i % 2 ? net.parameters : other;
        weights->load(0, 40, now.views(), 1);
        weights->load(i % 40, 1, now.views(), 1);
        weights->unload((i + 7) % 40);
      }
    };
    // Each pair enters with a few changes between, so that some are of one epoch and some of the
    // next.
    for (int between = 0; between < 4; ++between) {
      std::vector<std::unique_ptr<Guard>> guards;
      std::vector<std::pair<const Bytes*, std::vector<Bytes>>> seen;
      for (int i = 0; i < 4; ++i) {
        guards.push_back(std::make_unique<Guard>(*weights));
        for (int64_t b = 0; b < weights->layout().num_blocks(40); ++b) {
          const Bytes* block = guards.back()->block(b);
          if (block != nullptr) seen.emplace_back(block, std::vector<Bytes>(block, block + bytes));
        }
        replace(between);
      }
      CHECK(!seen.empty());
      while (!guards.empty()) {
        replace(20);
        for (const auto& [block, contents] : seen) {
          CHECK(std::memcmp(block, contents.data(), bytes) == 0);
        }
        // The last goes first, so that the oldest alone keeps what it may see.
        if (guards.size() == 1) break;
        guards.pop_back();
        seen.resize(seen.size() * guards.size() / (guards.size() + 1));
      }
    }
    replace(20);
    const int64_t before = weights->nbytes();
    replace(200);
    CHECK(weights->nbytes() == before);
  }
}

// What was retired in an epoch is reclaimed when all readers that entered up to then have left.
TEST(epochs) {
  Epochs epochs;
  CHECK(epochs.passed(epochs.stamp()));
  for (int round = 0; round < 6; ++round) {
    const Epochs::Token first = epochs.enter();
    const uint64_t retired = epochs.stamp();
    CHECK(!epochs.passed(retired) && !epochs.passed(retired));
    const Epochs::Token second = epochs.enter();  // of this epoch or the next
    const uint64_t later = epochs.stamp();
    CHECK(!epochs.passed(retired) && !epochs.passed(later));
    epochs.leave(first);
    CHECK(!epochs.passed(later));
    CHECK(!epochs.passed(epochs.stamp()));
    epochs.leave(second);
    CHECK(epochs.passed(retired) && epochs.passed(later));
    // So that both counters come first.
    for (int i = 0; i < round % 2; ++i) CHECK(epochs.passed(epochs.stamp()));
  }
  const Epochs::Token gone = epochs.enter();
  const uint64_t retired = epochs.stamp();
  CHECK(!epochs.passed(retired) && epochs.is_known(gone));
  epochs.forget_readers();
  CHECK(epochs.passed(retired) && !epochs.is_known(gone));
  const Epochs::Token own = epochs.enter();
  epochs.leave(gone);  // a reader of the parent must not count in the child
  CHECK(!epochs.passed(epochs.stamp()));
  epochs.leave(own);
  CHECK(epochs.passed(epochs.stamp()));
}

}  // namespace

int main(int argc, char** argv) {
  use_four_cpus();
  return run_tests(argc, argv);
}
