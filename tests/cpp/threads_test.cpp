// Sharing work out, many callers at once, and loading beside predicting; also under ThreadSanitizer.
#include <omp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "dispatch.h"
#include "four_cpus.h"
#include "network.h"
#include "threads.h"

using namespace mlpbank;

namespace {

constexpr double kLong = 1e9;  // nanoseconds: enough to be shared out and to wake threads for

void test_parallel_for_runs_every_item_once() {
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

// Each item waits until as many threads as were asked for are at work; were there fewer, the wait would run out.
void test_parallel_for_uses_the_threads_it_may() {
  for (int threads = 1; threads <= 4; ++threads) {
    const int expected = std::min(threads, cpu_budget().threads);
    std::atomic<int> arrived{0}, inside{0};
    std::atomic<bool> too_many{false};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    parallel_for(threads, {expected, 1, kLong}, [&](int64_t begin, int64_t end) {
      if (++inside > expected) too_many = true;
      arrived += static_cast<int>(end - begin);
      while (arrived < expected && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
      --inside;
    });
    CHECK(std::chrono::steady_clock::now() < deadline);
    CHECK(arrived == expected && !too_many);
  }
}

// The threads of all calls together stay within the budget, beside one for each caller.
void test_calls_share_the_budget() {
  constexpr int kCallers = 3;
  std::atomic<int> inside{0}, most{0};
  const auto call = [&] {
    omp_set_num_threads(4);
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

// A child has none of its parent's helpers. It starts its own, also when it was forked amid the work of others.
void test_forked_child_shares_out_its_work() {
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) parallel_for(4, {100, 1, kLong}, [](int64_t, int64_t) {});
  });
  for (int round = 0; round < 10; ++round) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(60);  // ends a child that hangs
      test_parallel_for_uses_the_threads_it_may();
      _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  stop = true;
  busy.join();
}

void test_parallel_for_is_serial_inside_a_parallel_region() {
  std::atomic<int> wrong{0};
#pragma omp parallel num_threads(2)
  {
    const std::thread::id self = std::this_thread::get_id();
    parallel_for(4, {100, 1, kLong}, [&](int64_t, int64_t) { wrong += std::this_thread::get_id() != self; });
  }
  CHECK(wrong == 0);
}

// Threads that predict without a pause, beside one that loads: each result is of one generation, a forward that starts
// after a load has returned sees it, and a load waits for the forwards that run but not for all that are still to come.
void test_loading_while_others_predict() {
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
    // So many take seconds: the system has let the loading thread run long before.
    constexpr int kReaders = 4, kForwardsPerLoad = 1000000;
    std::atomic<bool> stop{false}, starved{false};
    std::atomic<int> mixed{0}, forwards_since_load{0};
    const auto predict = [&](int threads) {
      while (!stop && !starved) {
        const Floats y = forward(inference, x, 4, threads);
        for (std::size_t m = 0; m < 60; ++m) {
          const auto is = [&](const Floats& r) { return std::memcmp(&y[m * block], &r[m * block], 4 * block) == 0; };
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

}  // namespace

int main() {
  unsetenv("MLPBANK_ISA"), unsetenv("MLPBANK_NUM_THREADS"), unsetenv("OMP_NUM_THREADS");
  omp_set_num_threads(4);  // OpenMP has counted the CPUs by itself
  test_parallel_for_runs_every_item_once();
  test_parallel_for_uses_the_threads_it_may();
  test_calls_share_the_budget();
#ifndef __SANITIZE_THREAD__  // which sees through neither forks of processes with threads nor OpenMP
  test_forked_child_shares_out_its_work();
  test_parallel_for_is_serial_inside_a_parallel_region();
#endif
  test_loading_while_others_predict();
  std::printf("all checks passed, up to %d threads\n", std::min(4, cpu_budget().threads));
}
