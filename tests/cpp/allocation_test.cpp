// Every change with its n-th allocation refused, for n = 0, 1, 2, ... until none is: each is done,
// or nothing has changed and the same change then succeeds.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "bank/bank.h"
#include "check.h"
#include "engine/threads.h"
#include "four_cpus.h"
#include "network.h"

namespace {

std::atomic<int64_t> until_refused{-1};  // allocations that still succeed; below 0: all do
std::atomic<int64_t> allocations{0};
std::atomic<bool> refused{false};

bool refuse() {
  ++allocations;
  if (until_refused.load() < 0 || until_refused.fetch_sub(1) != 0) return false;
  refused = true;
  return true;
}

void* allocate(std::size_t bytes) {
  if (refuse()) throw std::bad_alloc();
  void* const memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
#ifdef __GLIBC__
// Weights themselves. The definition in the program goes before libc's.
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  if (refuse()) return nullptr;
  void* memory = nullptr;
  return posix_memalign(&memory, alignment, bytes) == 0 ? memory : nullptr;
}
#endif

namespace {

using namespace mlpbank;

// A model whose every answer is `value` times its input.
struct Values {
  explicit Values(int64_t count, float first) {
    for (int64_t i = 0; i < count; ++i) weights.push_back(first + static_cast<float>(i));
  }
  std::vector<LayerView> views() const { return {{weights.data(), nullptr}}; }
  std::vector<float> weights;
};

// What each model computes for the input 1, NaN where there is none.
std::vector<float> answers(const std::shared_ptr<BatchedWeights>& weights) {
  const BatchedInference inference(weights, Engine(1, ""));
  const auto models = static_cast<std::size_t>(weights->num_models());
  const std::vector<float> x(models, 1.0f);
  std::vector<float> y(models);
  ForwardOptions options;
  options.missing = Missing::nan;
  inference.forward(x.data(), 1, y.data(), options);
  return y;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i] && !(a[i] != a[i] && b[i] != b[i])) return false;
  }
  return true;
}

// Runs `make` for something to change, `change` for the change and `state` for what one can see of
// it.
template <class Make, class Change, class State>
void check_all_or_nothing(const char* what, Make make, Change change, State state) {
  auto reference = make();
  const auto before = state(reference);
  change(reference);
  const auto after = state(reference);
  for (int64_t n = 0;; ++n) {
    auto subject = make();
    refused = false;
    until_refused = n;
    bool failed = false;
    try {
      change(subject);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    until_refused = -1;
    const auto now = state(subject);
    if (!(failed ? now == before : now == after)) {
      std::printf("%s: neither done nor undone after allocation %d was refused\n", what,
                  static_cast<int>(n));
      std::exit(1);
    }
    if (failed) {
      change(subject);
      if (!(state(subject) == after)) {
        std::printf("%s: not done after allocation %d had been refused before\n", what,
                    static_cast<int>(n));
        std::exit(1);
      }
    }
    if (!refused) return;
    CHECK(n < 1000);
  }
}

// Comparable with NaN.
struct Observed {
  std::vector<float> values;
  std::vector<int64_t> numbers;
  bool operator==(const Observed& other) const {
    return same(values, other.values) && numbers == other.numbers;
  }
};

std::shared_ptr<BatchedWeights> loaded(LayoutKind kind, int64_t models) {
  auto weights =
      std::make_shared<BatchedWeights>(models, Architecture({{1, 1, Activation::none}}), kind);
  weights->load(0, models, Values(models, 1).views(), 1);
  return weights;
}

Observed state_of(const std::shared_ptr<BatchedWeights>& weights) {
  Observed observed{answers(weights), {weights->num_models()}};
  for (int64_t m = 0; m < weights->num_models(); ++m)
    observed.numbers.push_back(weights->revision(m));
  return observed;
}

// The first sharing of work starts the helpers. Here that fails at each of its allocations in turn,
// on the calling thread or on the first helper. Afterwards work is shared all the same.
TEST(helpers_start_after_a_failure) {
  auto weights = std::make_shared<BatchedWeights>(4000, mlp({32, 32}), LayoutKind::panel);
  const std::vector<float> values(4000 * 32 * 32, 1.0f);
  const std::vector<LayerView> views = {{values.data(), nullptr}};
  for (int64_t n = 0; n < 64; ++n) {
    until_refused = n;
    refused = false;
    try {
      weights->load(0, 4000, views, 4);
    } catch (const std::bad_alloc&) {
    }
    until_refused = -1;
    if (!refused) break;
  }
  std::atomic<int> threads{0};
  for (int turn = 0; turn < 200 && threads < 2; ++turn) {
    threads = 0;
    parallel_for(4, {4, 1, 1e9}, [&](int64_t, int64_t) {
      ++threads;
      const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
      while (threads < 2 && std::chrono::steady_clock::now() < until) {
      }
    });
  }
  CHECK(threads >= 2);
}

TEST(weights_change_or_stay) {
  for (const LayoutKind kind : kLayouts) {
    const auto make = [&] { return loaded(kind, 37); };
    const Values values(100, 1000);
    using Weights = std::shared_ptr<BatchedWeights>;
    const auto load = [&](int64_t first, int64_t count, int threads) {
      return [&values, first, count, threads](const Weights& w) {
        w->load(first, count, values.views(), threads);
      };
    };
    check_all_or_nothing("load of one", make, load(5, 1, 1), state_of);
    check_all_or_nothing("load of all", make, load(0, 37, 1), state_of);
    check_all_or_nothing("load within and beyond tiles", make, load(3, 31, 1), state_of);
    check_all_or_nothing("unload", make, [](const Weights& w) { w->unload(20); }, state_of);
    check_all_or_nothing("grow", make, [](const Weights& w) { w->grow(30); }, state_of);
  }
}

// Calls by slot need memory for grouping, for their own scratch and, in the lane layout, for twins.
// They give bad_alloc, and the same call then succeeds.
TEST(calls_by_slot) {
  for (const LayoutKind kind : kLayouts) {
    const std::vector<int64_t> slots = {36, 3, 3, 20, 0, 36};
    const std::vector<float> x(slots.size(), 1.0f), expected = {37, 4, 4, 21, 1, 37};
    bool succeeded = false;
    for (int64_t n = 0; !succeeded; ++n) {
      CHECK(n < 100);
      const BatchedInference inference(loaded(kind, 37), Engine(1, ""));
      std::vector<float> y(slots.size());
      const auto call = [&] {
        inference.forward_models(slots.data(), 6, x.data(), 1, y.data(), {});
      };
      std::thread([&] {  // with no scratch yet
        until_refused = n;
        try {
          call();
          succeeded = true;
        } catch (const std::bad_alloc&) {
        }
        until_refused = -1;
        call();
      })
          .join();
      CHECK(y == expected);
    }
  }
}

// Memory for what is retired grows in proportion; one allocation for each would copy all of it each
// time.
TEST(allocations_of_many_unloads) {
  for (const LayoutKind kind : kLayouts) {
    const auto weights = loaded(kind, 20000);
    const BatchedWeights::ReadGuard guard(*weights);  // so that nothing is reclaimed
    const int64_t before = allocations;
    for (int64_t m = 0; m < 20000; ++m) weights->unload(m);
    // Each unload of the lane layout lists the address of a new tile.
    const int64_t of_each = kind == LayoutKind::lane ? 20000 : 0;
    CHECK(allocations - before - of_each < 2000);
  }
}

std::shared_ptr<Bank> bank_of(LayoutKind kind) {
  const Architecture architecture({{1, 1, Activation::none}});
  auto weights = std::make_shared<BatchedWeights>(1, architecture, kind);
  auto bank = std::make_shared<Bank>(weights, nullptr, ModelColumns(), 1u << 31);
  for (int64_t key = 0; key < 20; ++key) {
    bank->add(KeyView::of(key), "v", 1, Values(1, static_cast<float>(key)).views());
  }
  bank->remove(KeyView::of(int64_t{7}));
  return bank;
}

Observed state_of_bank(const std::shared_ptr<Bank>& bank) {
  Observed observed;
  const std::vector<float> values = answers(bank->weights());
  observed.numbers.push_back(bank->keys().size());
  for (int64_t key = -1; key < 40; ++key) {
    const Bank::Guard guard(bank);
    const int64_t slot = bank->find(KeyView::of(key));
    ModelRecord record;
    observed.numbers.push_back(bank->info(KeyView::of(key), record) ? record.revision : -1);
    observed.numbers.push_back(static_cast<int64_t>(record.version.str().size()));
    observed.values.push_back(slot == kNoSlot ? -1.0f : values[static_cast<std::size_t>(slot)]);
  }
  const Bank::Frozen frozen = bank->freeze(true);
  for (const Bank::Frozen::Key& key : frozen.added) observed.numbers.push_back(key.number);
  observed.numbers.push_back(static_cast<int64_t>(frozen.records.size()));  // of present models
  return observed;
}

TEST(bank_changes_or_stays) {
  for (const LayoutKind kind : kLayouts) {
    const auto make = [&] { return bank_of(kind); };
    const std::string version = "a version that is too long to lie in the string itself";
    using Banks = std::shared_ptr<Bank>;
    const auto add = [&](int64_t key) {
      return [&version, key](const Banks& b) {
        b->add(KeyView::of(key), version, 2, Values(1, 500).views());
      };
    };
    check_all_or_nothing("replace", make, add(3), state_of_bank);
    check_all_or_nothing("add to a slot that was freed", make, add(30), state_of_bank);
    check_all_or_nothing("add again", make, add(7), state_of_bank);
    check_all_or_nothing(
        "add many", make,
        [&](const Banks& b) {
          add(30)(b);
          // The rest must not fail: a change of many keys is many changes.
          const int64_t n = until_refused.exchange(-1);
          for (int64_t key = 31; key < 39; ++key) add(key)(b);
          until_refused = n;
        },
        state_of_bank);
    check_all_or_nothing(
        "remove", make, [](const Banks& b) { CHECK(b->remove(KeyView::of(int64_t{11}))); },
        state_of_bank);
  }
}

}  // namespace

int main(int argc, char** argv) {
  use_four_cpus();
  return run_tests(argc, argv);
}
