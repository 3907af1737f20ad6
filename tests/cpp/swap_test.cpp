// Readers, writers, growing and unloading at once, for ThreadSanitizer. Engines have one thread, so
// that all threads are those started here.
//
// All weights and biases of a revision r are the number r, so an output tells which revision
// computed it.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "check.h"
#include "engine/inference.h"

using namespace mlpbank;

namespace {

constexpr int64_t kModels = 40, kRevisions = 1000;
constexpr int kSwaps = 3000;

void load(BatchedWeights& weights, int64_t first, int64_t count, int64_t revision) {
  const std::vector<float> values(static_cast<std::size_t>(6 * count),
                                  static_cast<float>(revision));
  weights.load(first, count, {{values.data(), values.data()}, {values.data(), values.data()}}, 1);
}

// With revision r, h = 2 r + r for each of 3 neurons, and y = 3 h r + r.
int64_t revision_of(float y) {
  for (int64_t r = 0; r <= kRevisions; ++r) {
    if (y == static_cast<float>(9 * r * r + r)) return r;
  }
  return -1;
}

void run(LayoutKind kind) {
  const Architecture architecture({{2, 3, Activation::none}, {3, 2, Activation::none}});
  const auto weights = std::make_shared<BatchedWeights>(kModels, architecture, kind);
  load(*weights, 0, kModels, 1);
  std::atomic<int64_t> promised[kModels];
  for (auto& p : promised) p = 1;
  std::atomic<int> writing{3};
  std::atomic<int64_t> observed{0};

  const auto write = [&](int64_t first, int64_t step) {
    for (int i = 0; i < kSwaps; ++i) {
      const int64_t slot = first + i * 7 % (kModels / step) * step,
                    next = promised[slot] % kRevisions + 1;
      load(*weights, slot, 1, next);
      promised[slot] = next;
    }
    --writing;
  };
  const auto grow = [&] {  // models come and go behind the others
    for (int i = 0; i < kSwaps / 50; ++i) {
      weights->grow(5);
      load(*weights, weights->num_models() - 1, 1, 7);
      weights->unload(weights->num_models() - 1);
    }
    --writing;
  };
  // Each slot so many times; 0: a call without slots. A tile leaves many rows to its twin.
  const auto read = [&](int64_t times) {
    const BatchedInference inference(weights, Engine(1, ""));
    const int64_t entries = kModels * std::max<int64_t>(1, times);
    std::vector<int64_t> slots;
    for (int64_t i = 0; i < entries; ++i) slots.push_back(i * 13 % kModels);
    const std::vector<float> x(static_cast<std::size_t>(2 * entries), 1.0f);
    std::vector<float> y(x.size());
    do {
      int64_t before[kModels];
      for (int64_t m = 0; m < kModels; ++m) before[m] = promised[m];
      if (times > 0) {
        inference.forward_models(slots.data(), entries, x.data(), 1, y.data(), {});
      } else {
        inference.forward(x.data(), 1, y.data(), {1, Missing::error, kModels});
      }
      for (int64_t i = 0; i < entries; ++i) {
        const int64_t slot = times > 0 ? slots[static_cast<std::size_t>(i)] : i;
        const int64_t revision = revision_of(y[static_cast<std::size_t>(2 * i)]);
        CHECK(revision > 0 &&
              y[static_cast<std::size_t>(2 * i)] == y[static_cast<std::size_t>(2 * i + 1)]);
        // Revisions wrap around: an older one would look nearly kRevisions ahead.
        CHECK((revision - before[slot] + kRevisions) % kRevisions < kRevisions / 2);
      }
      observed += kModels;
    } while (writing > 0);
  };

  std::vector<std::thread> threads;
  threads.emplace_back(write, 0, 2);
  threads.emplace_back(write, 1, 2);
  threads.emplace_back(grow);
  for (const int64_t times : {0, 1, 20, 20}) threads.emplace_back(read, times);
  for (auto& thread : threads) thread.join();
  CHECK(observed > 0);
}

TEST(panel_layout) { run(LayoutKind::panel); }
TEST(lane_layout) { run(LayoutKind::lane); }

}  // namespace

int main(int argc, char** argv) { return run_tests(argc, argv); }
