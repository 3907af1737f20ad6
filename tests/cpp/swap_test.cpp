// Readers, writers, growing and unloading on one bank at once, for ThreadSanitizer. Engines of one thread: all that run
// are those here.
//
// All weights and biases of a generation g are the number g, so an output tells which generation computed it.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "errors.h"
#include "engine/inference.h"

using namespace mlpbank;

namespace {

constexpr int64_t kModels = 40, kGenerations = 1000;

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
      std::exit(1);                                                           \
    }                                                                         \
  } while (false)

void load(BatchedWeights& weights, int64_t first, int64_t count, int64_t generation) {
  const std::vector<float> values(static_cast<std::size_t>(6 * count), static_cast<float>(generation));
  weights.load(first, count, {{values.data(), values.data()}, {values.data(), values.data()}}, 1);
}

// h = 2 g + g for each of 3 units, y = 3 h g + g.
int64_t generation_of(float y) {
  for (int64_t g = 0; g <= kGenerations; ++g) {
    if (y == static_cast<float>(9 * g * g + g)) return g;
  }
  return -1;
}

void run(LayoutKind kind, int swaps) {
  const Architecture architecture({{2, 3, Activation::none}, {3, 2, Activation::none}});
  const auto weights = std::make_shared<BatchedWeights>(kModels, architecture, kind);
  load(*weights, 0, kModels, 1);
  std::atomic<int64_t> promised[kModels];
  for (auto& p : promised) p = 1;
  std::atomic<int> writing{3};
  std::atomic<int64_t> observed{0};

  const auto write = [&](int64_t first, int64_t step) {
    for (int i = 0; i < swaps; ++i) {
      const int64_t model = first + i * 7 % (kModels / step) * step, next = promised[model] % kGenerations + 1;
      load(*weights, model, 1, next);
      promised[model] = next;
    }
    --writing;
  };
  const auto grow = [&] {  // models that come and go behind the others
    for (int i = 0; i < swaps / 50; ++i) {
      weights->grow(5);
      load(*weights, weights->num_models() - 1, 1, 7);
      weights->unload(weights->num_models() - 1);
    }
    --writing;
  };
  const auto read = [&](bool by_ids) {
    const BatchedInference inference(weights, Engine(1, ""));
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < kModels; ++i) ids.push_back(i * 13 % kModels);
    const std::vector<float> x(2 * kModels, 1.0f);
    std::vector<float> y(2 * kModels);
    do {
      int64_t before[kModels];
      for (int64_t m = 0; m < kModels; ++m) before[m] = promised[m];
      if (by_ids) {
        inference.forward_models(ids.data(), kModels, x.data(), 1, y.data(), {});
      } else {
        inference.forward(x.data(), 1, y.data(), {1, Missing::error, kModels});
      }
      for (int64_t i = 0; i < kModels; ++i) {
        const int64_t model = by_ids ? ids[static_cast<std::size_t>(i)] : i;
        const int64_t seen = generation_of(y[static_cast<std::size_t>(2 * i)]);
        CHECK(seen > 0 && y[static_cast<std::size_t>(2 * i)] == y[static_cast<std::size_t>(2 * i + 1)]);
        // Codes are used in turn: an older one would look nearly kGenerations ahead.
        CHECK((seen - before[model] + kGenerations) % kGenerations < kGenerations / 2);
      }
      observed += kModels;
    } while (writing > 0);
  };

  std::vector<std::thread> threads;
  threads.emplace_back(write, 0, 2);
  threads.emplace_back(write, 1, 2);
  threads.emplace_back(grow);
  for (int i = 0; i < 4; ++i) threads.emplace_back(read, i % 2 == 1);
  for (auto& thread : threads) thread.join();
  CHECK(observed > 0);
}

}  // namespace

int main(int argc, char** argv) {
  const int swaps = argc > 1 ? std::atoi(argv[1]) : 3000;
  run(LayoutKind::panel, swaps);
  run(LayoutKind::lane, swaps);
  std::puts("swap_test: ok");
  return 0;
}
