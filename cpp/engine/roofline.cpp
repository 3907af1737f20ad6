// Measurements of read bandwidth and multiply-add rate.
#include "engine/roofline.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <vector>

#include "engine/engine.h"
#include "engine/threads.h"
#include "weights/weights.h"

namespace mlpbank {
namespace {

// One timed run reads at least this much. A buffer in L2 is read in a microsecond, less than it
// takes to share the work out.
constexpr int64_t kRunBytes = 8 << 20;
constexpr int64_t kLineFloats = 16;
constexpr int64_t kChunksPerThread = 16;
constexpr double kAlwaysShared = 1e9;  // nanoseconds: never too little work for a second thread

std::atomic<float> sink;  // receives all results, so that they have to be computed

template <class Run>
double seconds(Run run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

double read_bandwidth(int64_t nbytes, int num_threads, int repeats) {
  const int64_t lines = nbytes / static_cast<int64_t>(kLineFloats * sizeof(float));
  if (lines < 1)
    throw std::invalid_argument("nbytes: expected at least 64, got " + std::to_string(nbytes));
  if (repeats < 1)
    throw std::invalid_argument("repeats: expected at least 1, got " + std::to_string(repeats));
  const Engine engine(num_threads, "");
  const Kernel& kernel = engine.kernel();
  const int64_t threads = engine.num_threads();
  const AlignedBuffer buffer(lines * kLineFloats);
  std::fill(buffer.data(), buffer.data() + buffer.size(), 1.0f);  // gives it pages of its own

  const int64_t passes = std::max<int64_t>(1, kRunBytes / nbytes);
  // One chunk for each thread stays in its core's own cache. Smaller chunks, for buffers beyond it,
  // let a faster thread take more. They are read once: a second pass would find them in L1.
  std::vector<int64_t> chunks = {(lines + threads - 1) / threads};
  if (passes == 1) chunks.push_back(std::max<int64_t>(1, lines / (threads * kChunksPerThread)));

  const auto run = [&](int variant, int64_t chunk) {
    parallel_for(engine.num_threads(), {lines, chunk, kAlwaysShared},
                 [&](int64_t begin, int64_t end) {
                   float sum = 0.0f;
                   for (int64_t pass = 0; pass < passes; ++pass) {
                     sum += kernel.probe_read(buffer.data() + begin * kLineFloats,
                                              (end - begin) * kLineFloats, variant);
                   }
                   sink.store(sum, std::memory_order_relaxed);
                 });
  };
  std::vector<std::vector<double>> times(chunks.size() * kReadVariants);
  for (int repeat = 0; repeat < repeats; ++repeat) {
    for (std::size_t i = 0; i < times.size(); ++i) {
      const auto variant = static_cast<int>(i % kReadVariants);
      times[i].push_back(seconds([&] { run(variant, chunks[i / kReadVariants]); }));
    }
  }
  double best = median(times.front());
  for (const auto& samples : times) best = std::min(best, median(samples));
  return static_cast<double>(lines * passes) * kLineFloats * sizeof(float) / best / 1e9;
}

double fma_peak(const std::string& isa, int num_threads) {
  constexpr int kRepeats = 5;
  constexpr double kRunSeconds = 0.5e-3;
  const Engine engine(num_threads, isa);
  const Kernel& kernel = engine.kernel();
  const auto burn = [&](int64_t steps) {
    float result;
    const double flops = kernel.probe_fma(steps, &result);
    sink.store(result, std::memory_order_relaxed);
    return flops;
  };
  int64_t steps = 1024;  // per chunk; grows until a thread's chunks take long enough
  while (seconds([&] { burn(steps); }) * kChunksPerThread < kRunSeconds) steps *= 2;

  const int64_t chunks = engine.num_threads() * kChunksPerThread;
  std::vector<double> times;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    times.push_back(seconds([&] {
      parallel_for(engine.num_threads(), {chunks, 1, kAlwaysShared},
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) burn(steps);
                   });
    }));
  }
  return burn(steps) * static_cast<double>(chunks) / median(times) / 1e9;
}

}  // namespace mlpbank
