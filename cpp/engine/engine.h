// Engine: which kernel runs, and on how many threads.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernel.h"

namespace mlpbank {

// Instruction sets that this CPU and operating system can run, the fastest first. The last is
// always "portable".
std::vector<std::string> available_isas();

// Those that were compiled, in the same order. This CPU may lack some.
std::vector<std::string> compiled_isas();

// The kernel to use. An empty `isa` takes the fastest. The environment variable MLPBANK_ISA sets an
// upper bound: it can only lower the choice. Throws std::invalid_argument for a name that is
// unknown, not available here or above the bound.
const Kernel& choose_kernel(const std::string& isa);

// A kernel and a number of threads. All forwards of a BatchedInference use one.
class Engine {
 public:
  // num_threads 0 takes the whole CPU budget. A number above the budget is lowered to it.
  Engine(int num_threads, const std::string& isa);

  int num_threads() const { return num_threads_; }
  const Kernel& kernel() const { return *kernel_; }

 private:
  const Kernel* kernel_;
  int num_threads_;
};

}  // namespace mlpbank
