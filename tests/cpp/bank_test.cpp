// A Bank whose keys are looked up and predicted with while others are added, replaced and removed.
// Also runs under ThreadSanitizer.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bank/bank.h"
#include "errors.h"
#include "network.h"

using namespace mlpbank;

namespace {

// A model answers key + 1000 * n for some n that never falls.
constexpr int64_t kKeys = 200;

KeyView key_of(int64_t i, const std::vector<std::string>& texts) {
  return texts.empty() ? KeyView::of(i) : KeyView::of(texts[static_cast<std::size_t>(i)]);
}

// Whether each key stands there once, with a slot and a record of its own: versions are as long as
// the number of the key.
bool is_whole(const Bank::Frozen& frozen) {
  std::map<int64_t, std::size_t> lengths;
  for (const auto& [slot, record] : frozen.records) lengths[slot] = record.version.str().size();
  if (lengths.size() != frozen.added.size()) return false;
  for (const Bank::Frozen::Key& key : frozen.added) {
    const auto number = key.text.empty() ? key.number : std::atoll(key.text.c_str() + 4);
    const auto found = lengths.find(key.slot);
    if (found == lengths.end() || found->second != static_cast<std::size_t>(number)) return false;
    Bytes tile[4096] = {};
    if (frozen.weights->copied_bytes(1) > static_cast<int64_t>(sizeof tile)) return false;
    frozen.weights->copy(&key.slot, 1, tile);  // throws if the model is missing
    lengths.erase(found);
  }
  return true;
}

void run(LayoutKind kind, bool text) {
  std::vector<std::string> texts;
  for (int64_t i = 0; text && i < kKeys; ++i) texts.push_back("key " + std::to_string(i));
  const auto weights =
      std::make_shared<BatchedWeights>(1, Architecture({{1, 1, Activation::none}}), kind);
  const auto bank = std::make_shared<Bank>(weights, nullptr, ModelColumns(), 1u << 31);
  std::atomic<bool> stop{false};
  std::atomic<int> answers{0}, wrong{0}, unknown{0};

  const auto reader = [&](unsigned seed) {
    const BatchedInference inference(weights, Engine(1, ""));
    std::mt19937 random(seed);
    std::vector<float> last(kKeys, -1.0f);
    while (!stop) {
      const auto key = static_cast<int64_t>(random() % kKeys);
      if (random() % 64 == 0) {  // what looks at all of the bank
        ModelRecord record;
        if (bank->info(key_of(key, texts), record) &&
            record.version.str().size() != static_cast<std::size_t>(key))
          ++wrong;
        if (!is_whole(bank->freeze(true))) ++wrong;
      }
      const Bank::Guard guard(bank);
      int64_t found[64];
      bank->at_one_moment([&] {
        for (int64_t& one : found) one = bank->find(key_of(key, texts));
      });
      for (const int64_t one : found)
        wrong += one != found[0];  // a call gives one answer for a key
      const std::vector<KeyView> many(64, key_of(key, texts));
      bank->at_one_moment([&] { bank->find_many(many.data(), 64, found); });
      for (const int64_t one : found) wrong += one != found[0];
      bank->at_one_moment([&] { bank->find_handles(many.data(), 64, found); });
      for (const int64_t one : found) wrong += one != found[0];
      const int64_t handle = bank->find_handle(key_of(key, texts));
      bool stale = false;
      if (handle != kNoSlot && bank->slot_of(handle, stale) != (handle & 0xffffffff) && !stale)
        ++wrong;
      const int64_t slot = bank->find(key_of(key, texts));
      if (slot == kNoSlot) {
        ++unknown;
        continue;
      }
      const float x = 1.0f;
      float y;
      try {
        inference.forward_models(&slot, 1, &x, 1, &y, {});
      } catch (const ModelNotLoaded&) {
        ++unknown;  // removed in between
        continue;
      }
      float& before = last[static_cast<std::size_t>(key)];
      if (static_cast<int64_t>(y) % 1000 != key || y < before) ++wrong;
      before = y;
      ++answers;
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 3; ++i) threads.emplace_back(reader, i);

  std::mt19937 random(7);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (int64_t n = 0;
       (n < 4000 || answers < 2000 || unknown < 100) && std::chrono::steady_clock::now() < end;
       ++n) {
    const auto key = static_cast<int64_t>(random() % kKeys);
    if (random() % 3 == 0) {
      bank->remove(key_of(key, texts));
    } else {
      const float weight = static_cast<float>(key + 1000 * n);
      bank->add(key_of(key, texts), std::string(static_cast<std::size_t>(key), 'v'), 0,
                {{&weight, nullptr}});
    }
    if (n % 500 == 0)
      CHECK(static_cast<int64_t>(bank->freeze(true).added.size()) == bank->keys().size());
    // The readers are late.
    if (n > 4000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(n < 16000);  // float32 holds the answers
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(answers > 0 && unknown > 0);
  CHECK(weights->num_models() <= 2 * kKeys + 4096);  // slots are used again
}

// Look-ups that a change came in between are made again, after some tries with the lock.
TEST(look_ups_are_of_one_moment) {
  const auto bank =
      std::make_shared<Bank>(std::make_shared<BatchedWeights>(
                                 1, Architecture({{1, 1, Activation::none}}), LayoutKind::panel),
                             nullptr, ModelColumns(), 1u << 31);
  const float weight = 1.0f;
  const KeyView key = KeyView::of(int64_t{7});
  for (const int changes : {0, 1, 3, 4}) {
    if (bank->find(key) == kNoSlot) bank->add(key, "", 0, {{&weight, nullptr}});
    int runs = 0;
    int64_t first = 0, second = 0;
    bank->at_one_moment([&] {
      first = bank->find(key);
      if (runs++ < changes) {
        if (first == kNoSlot) {
          bank->add(key, "", 0, {{&weight, nullptr}});
        } else {
          bank->remove(key);
        }
      }
      second = bank->find(key);
    });
    CHECK(first == second && runs == changes + 1);
  }
}

// Each slot has a count of its own, also where one chunk of them ends and the next begins.
TEST(reuse_counts) {
  ReuseCounts counts;
  std::map<int64_t, uint32_t> expected;
  for (const int64_t end : {1024, 3072, 7168}) {
    for (int64_t slot = end + 1; slot >= end - 2; --slot) {
      CHECK(counts.of(slot) == 0);
      counts.reserve(slot);
      for (int64_t i = 0; i <= slot % 5; ++i) CHECK(counts.increment(slot) == ++expected[slot]);
    }
  }
  for (const auto& [slot, count] : expected) CHECK(counts.of(slot) == count);
  CHECK(counts.of(0) == 0 && counts.of(int64_t{1} << 31) == 0);
}

// Versions of a damaged file: one that reaches outside the bytes or ends before it begins is empty.
TEST(damaged_versions) {
  const std::string bytes = "abc!";  // three of them are the file's
  const int64_t revisions[] = {1, 2, 3};
  const double loaded_at[] = {4, 5, 6};
  const auto version_of = [&](int64_t slot, const std::vector<uint64_t>& offsets) {
    const ModelColumns columns = {3, revisions, loaded_at, offsets.data(), bytes.data(),
                                  3, nullptr};
    return columns.get(slot).version.str();
  };
  CHECK(version_of(0, {0, 1, 1, 3}) == "a" && version_of(1, {0, 1, 1, 3}).empty());
  CHECK(version_of(2, {0, 1, 1, 3}) == "bc" && version_of(3, {0, 1, 1, 3}).empty());
  CHECK(version_of(2, {0, 1, 1, 4}).empty() && version_of(1, {0, 4, 4, 4}).empty());
  CHECK(version_of(1, {0, 3, 2, 3}).empty() && version_of(1, {0, 1, ~uint64_t{0}, 3}).empty());
}

TEST(answers_belong_to_their_keys) {
  for (const LayoutKind kind : kLayouts) {
    for (const bool text : {false, true}) run(kind, text);
  }
}

}  // namespace

int main(int argc, char** argv) { return run_tests(argc, argv); }
