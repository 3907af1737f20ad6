// Engine: the kernels in order of preference, the check of this CPU, the override.
#include "engine/engine.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "engine/threads.h"
#if defined(__x86_64__)
#  include "cpu_x86.h"
#endif

namespace mlpbank {

extern const Kernel kernel_portable;
#if defined(__x86_64__)
extern const Kernel kernel_avx2;
extern const Kernel kernel_avx512;
#elif defined(__aarch64__)
extern const Kernel kernel_neon;
#endif

namespace {

struct Candidate {
  const Kernel* kernel;
  bool (*supported)();
};

// In order of preference.
const Candidate kCandidates[] = {
#if defined(__x86_64__)
    {&kernel_avx512, [] { return cpu_features().avx512; }},
    {&kernel_avx2, [] { return cpu_features().avx2; }},
#elif defined(__aarch64__)
    {&kernel_neon, [] { return true; }},
#endif
    {&kernel_portable, [] { return true; }},
};

std::string quoted(const std::vector<std::string>& names) {
  std::string list;
  for (const auto& name : names) list += (list.empty() ? "'" : ", '") + name + "'";
  return list;
}

// The position of `isa` in available_isas(). Error messages start with `who`, the argument or
// variable that named it.
std::size_t find_available(const std::string& isa, const std::string& who) {
  const auto available = available_isas();
  const auto found = std::find(available.begin(), available.end(), isa);
  if (found != available.end()) return static_cast<std::size_t>(found - available.begin());
  const bool known = std::any_of(std::begin(kCandidates), std::end(kCandidates),
                                 [&](const Candidate& c) { return isa == c.kernel->isa; });
  throw std::invalid_argument(who + ": expected one of " + quoted(available) + ", got '" + isa +
                              "'" + (known ? ", which this CPU does not support" : ""));
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.supported()) names.emplace_back(candidate.kernel->isa);
  }
  return names;
}

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : kCandidates) names.emplace_back(candidate.kernel->isa);
  return names;
}

const Kernel& choose_kernel(const std::string& isa) {
  const char* bound_name = std::getenv("MLPBANK_ISA");
  const bool bounded = bound_name != nullptr && *bound_name != '\0';
  const std::size_t bound = bounded ? find_available(bound_name, "MLPBANK_ISA") : 0;
  std::size_t choice = bound;
  if (!isa.empty()) {
    choice = find_available(isa, "isa");
    if (choice < bound) {
      throw std::invalid_argument("isa: expected '" + std::string(bound_name) +
                                  "' or a lesser one, since MLPBANK_ISA is set to it, got '" + isa +
                                  "'");
    }
  }
  const std::string name = available_isas()[choice];
  return *std::find_if(std::begin(kCandidates), std::end(kCandidates), [&](const Candidate& c) {
            return name == c.kernel->isa;
          })->kernel;
}

Engine::Engine(int num_threads, const std::string& isa) : kernel_(&choose_kernel(isa)) {
  if (num_threads < 0) {
    throw std::invalid_argument("num_threads: expected a positive integer, got " +
                                std::to_string(num_threads));
  }
  const int budget = cpu_budget().threads;
  num_threads_ = num_threads == 0 ? budget : std::min(num_threads, budget);
}

}  // namespace mlpbank
