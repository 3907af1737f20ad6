// What bank files rest on: key tables, weights over read-only memory, snapshots.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"
#include "bank/hash_many.h"
#include "bank/keys.h"
#include "bank/slot_map.h"
#include "network.h"

namespace {

using namespace mlpbank;

std::shared_ptr<const KeyTable> table_of(const StringKeys& keys,
                                         const std::vector<uint32_t>& buckets,
                                         const KeyHash& hash) {
  return std::make_shared<const KeyTable>(KeyType::text, keys,
                                          Buckets{buckets.data(), buckets.size()}, hash, nullptr);
}

std::shared_ptr<const KeyTable> table_of(const IntKeys& keys, const std::vector<uint32_t>& buckets,
                                         const KeyHash& hash) {
  return std::make_shared<const KeyTable>(keys, Buckets{buckets.data(), buckets.size()}, hash,
                                          nullptr);
}

// Looks a key up alone and in a batch of keys that are all the same.
int64_t find(const std::shared_ptr<const KeyTable>& table, const KeyView& key) {
  const std::vector<KeyView> keys(100, key);
  std::vector<int64_t> slots(keys.size());
  SlotMap(table).find_many(keys.data(), 100, slots.data());
  const int64_t slot = table->find(key);
  CHECK(slots == std::vector<int64_t>(keys.size(), slot));
  return slot;
}
int64_t find(const std::shared_ptr<const KeyTable>& table, std::string_view key) {
  return find(table, KeyView::of(key));
}
int64_t find(const std::shared_ptr<const KeyTable>& table, int64_t key) {
  return find(table, KeyView::of(key));
}

// The test vectors of SipHash-1-3 for the key 00 01 ... 0f: of no bytes, of 00, of 00 01 ... 07.
TEST(hashes_match_their_test_vectors) {
  const KeyHash hash = {true, 0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
  CHECK(hash(std::string_view()) == 0xabac0158050fc4dcu);
  CHECK(hash(std::string_view("\0", 1)) == 0xc9f49bf37d57ca93u);
  CHECK(hash(std::string_view("\0\1\2\3\4\5\6\7", 8)) == hash(int64_t{0x0706050403020100}));
  const KeyHash other = KeyHash::random();
  CHECK(other.seeded && other("a") != hash("a") && other("a") != KeyHash::random()("a"));
  const KeyHash version_1;
  CHECK(version_1("a") == 0xaf63dc4c296230c0u && version_1(int64_t{0}) == 0xe220a8397b1dcdafu);
}

// Texts of all lengths side by side, also some that are too long to be hashed together.
TEST(many_keys_have_the_hashes_of_each) {
  for (const KeyHash& hash : {KeyHash::random(), KeyHash()}) {
    for (int64_t count = 0; count < 100; count += 1 + count / 8) {
      for (const std::size_t longest : {1, 8, 9, 24, 63, 64, 200}) {
        std::vector<std::string> texts;
        std::vector<KeyView> keys, numbers;
        for (int64_t i = 0; i < count; ++i) {
          texts.emplace_back(generator()() % (longest + 1), ' ');
          for (char& c : texts.back()) c = static_cast<char>(generator()());
          numbers.push_back(KeyView::of(static_cast<int64_t>(generator()())));
        }
        for (const std::string& text : texts) keys.push_back(KeyView::of(text));
        std::vector<uint64_t> hashes(texts.size());
        hash_many(hash, KeyType::text, keys.data(), count, hashes.data());
        for (std::size_t i = 0; i < keys.size(); ++i) CHECK(hashes[i] == hash(texts[i]));
        hash_many(hash, KeyType::number, numbers.data(), count, hashes.data());
        for (std::size_t i = 0; i < keys.size(); ++i) CHECK(hashes[i] == hash(numbers[i].number));
      }
    }
  }
}

TEST(types_of_tuples_tell_their_parts) {
  std::vector<KeyType> seen = {KeyType::none, KeyType::text, KeyType::number};
  for (int parts = 1; parts <= kMaxParts; ++parts) {
    for (uint32_t bits = 0; bits < uint32_t{1} << parts; bits += parts < 8 ? 1 : 4097) {
      TupleType built;
      for (int i = 0; i < parts; ++i) built.add((bits >> i & 1) != 0);
      const KeyType type = built.type();
      CHECK(is_tuple(type) && num_parts(type) == parts);
      for (int i = 0; i < parts; ++i) CHECK(is_number(type, i, parts) == ((bits >> i & 1) != 0));
      CHECK(std::count(seen.begin(), seen.end(), type) == 0);
      seen.push_back(type);
    }
  }
  CHECK(!is_tuple(KeyType::none) && !is_tuple(KeyType::text) && !is_tuple(KeyType::number));
}

void check_string_keys(const KeyHash& hash) {
  for (const int64_t count : {0, 1, 2, 3, 100, 5000}) {
    std::vector<uint64_t> offsets = {0};
    std::string bytes;
    for (int64_t i = 0; i < count; ++i) {
      bytes += i == 0 ? std::string() : "key-" + std::to_string(i * i);
      offsets.push_back(bytes.size());
    }
    const StringKeys keys = {count, offsets.data(), bytes.data(), bytes.size()};
    std::vector<uint32_t> buckets(static_cast<std::size_t>(num_buckets(count)));
    CHECK(fill_buckets(keys, hash, buckets.data()) == -1);
    const auto table = table_of(keys, buckets, hash);
    for (int64_t i = 0; i < count; ++i) {
      std::string_view key;
      CHECK(keys.get(i, key) && find(table, key) == i);
    }
    CHECK(find(table, "key-") == -1 && find(table, std::string(1000, 'x')) == -1);
    CHECK((find(table, "") == 0) == (count > 0));
    CHECK(!table->is_rebuilt());
  }
  const std::vector<uint64_t> offsets = {0, 1, 2, 3};
  std::vector<uint32_t> buckets(8);
  CHECK(fill_buckets(StringKeys{3, offsets.data(), "aba", 3}, hash, buckets.data()) == 2);
}

void check_int_keys(const KeyHash& hash) {
  std::vector<int64_t> values = {0, -1, INT64_MAX, INT64_MIN, 7};
  for (int64_t i = 100; i < 4000; ++i) values.push_back(i * 1024);
  const IntKeys keys = {static_cast<int64_t>(values.size()), values.data()};
  std::vector<uint32_t> buckets(static_cast<std::size_t>(num_buckets(keys.count)));
  CHECK(fill_buckets(keys, hash, buckets.data()) == -1);
  const auto table = table_of(keys, buckets, hash);
  for (std::size_t i = 0; i < values.size(); ++i)
    CHECK(find(table, values[i]) == static_cast<int64_t>(i));
  CHECK(find(table, int64_t{8}) == -1);
}

TEST(every_key_is_found) {
  for (const KeyHash& hash : {KeyHash(), KeyHash::random()}) {
    check_string_keys(hash);
    check_int_keys(hash);
  }
}

// A table whose keys all fall into one bucket, as strangers can choose them for a hash without a
// seed. After the first long search it is rebuilt, and every key is found.
TEST(slow_tables_are_rebuilt) {
  const KeyHash hash;
  std::vector<int64_t> values;
  for (int64_t i = 0; values.size() < 2000; ++i) {
    if ((hash(i) & 4095) < 8) values.push_back(i);
  }
  const IntKeys keys = {static_cast<int64_t>(values.size()), values.data()};
  std::vector<uint32_t> buckets(static_cast<std::size_t>(num_buckets(keys.count)));
  CHECK(buckets.size() == 4096 && fill_buckets(keys, hash, buckets.data()) == -1);
  const auto table = table_of(keys, buckets, hash);
  CHECK(find(table, values[0]) == 0 && !table->is_rebuilt());
  for (std::size_t i = 0; i < values.size(); ++i)
    CHECK(find(table, values[i]) == static_cast<int64_t>(i));
  CHECK(table->is_rebuilt() && find(table, int64_t{-1}) == -1);

  // All keys fall into one bucket, so key i is found after i + 1 steps.
  values.clear();
  for (int64_t i = 0; values.size() <= kMaxSteps; ++i) {
    if ((hash(i) & 2047) == 0) values.push_back(i);
  }
  const IntKeys chain = {static_cast<int64_t>(values.size()), values.data()};
  buckets.assign(static_cast<std::size_t>(num_buckets(chain.count)), 0);
  CHECK(buckets.size() == 2048 && fill_buckets(chain, hash, buckets.data()) == -1);
  const auto edge = table_of(chain, buckets, hash);
  CHECK(find(edge, values[kMaxSteps - 1]) == kMaxSteps - 1 && !edge->is_rebuilt());
  CHECK(find(edge, values[kMaxSteps]) == kMaxSteps && edge->is_rebuilt());
}

// Memory of exactly so many bytes, so that a sanitizer sees reads past its end.
std::shared_ptr<Bytes> exactly(int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  std::shared_ptr<Bytes> memory(static_cast<Bytes*>(std::aligned_alloc(64, size)), std::free);
  std::fill_n(memory.get(), size, Bytes{0});
  return memory;
}

// Tables of a damaged file: a search stays inside and ends.
TEST(damaged_tables) {
  const std::string bytes = "abc";
  for (int round = 0; round < 20000; ++round) {
    std::vector<uint64_t> offsets(4);
    for (uint64_t& offset : offsets) {
      offset = random_below(3) ? static_cast<uint64_t>(random_below(5)) : generator()();
    }
    std::vector<uint32_t> buckets(8);  // often without an empty one
    for (uint32_t& bucket : buckets) {
      bucket = random_below(4) ? static_cast<uint32_t>(random_below(6)) : generator()();
    }
    const StringKeys strings = {3, offsets.data(), bytes.data(), bytes.size()};
    const int64_t found = find(table_of(strings, buckets, KeyHash()), "b");
    CHECK(found >= -1 && found < 3);
    const std::vector<int64_t> values = {1, 2, 3};
    const int64_t position =
        find(table_of(IntKeys{3, values.data()}, buckets, KeyHash()), int64_t{2});
    CHECK(position == -1 || position == 1);
  }
  // Keys that end at the last byte, and one behind it.
  for (const uint64_t end : {3, 4}) {
    const std::vector<char> three(bytes.begin(), bytes.end());  // of exactly 3 bytes
    const std::vector<uint64_t> ends = {0, 1, 2, end};
    const StringKeys strings = {3, ends.data(), three.data(), 3};
    std::string_view key;
    CHECK(strings.get(1, key) && key == "b");
    CHECK(strings.get(2, key) == (end == 3));
  }
  // A table without an empty bucket, of many keys that are never found: all offsets reach outside.
  const std::vector<uint64_t> offsets(4097, uint64_t{1} << 40);
  const std::vector<uint32_t> buckets(8192, 1);
  const auto table =
      table_of(StringKeys{4096, offsets.data(), bytes.data(), bytes.size()}, buckets, KeyHash());
  CHECK(find(table, "b") == -1 && table->is_rebuilt() && find(table, "b") == -1);
}

// A map with a table, and an index of keys that were added, removed and added again.
void check_many(KeyType type, const KeyHash& hash) {
  std::vector<std::string> texts;
  std::vector<int64_t> numbers;
  std::vector<uint64_t> offsets = {0};
  std::string bytes;
  constexpr int64_t kAll = 3000, kInTable = 1000;
  for (int64_t i = 0; i < kAll; ++i) {
    texts.push_back(std::string(static_cast<std::size_t>(i % 40), 'x') + std::to_string(i));
    numbers.push_back(i * i);
    if (i >= kInTable) continue;
    bytes += texts.back();
    offsets.push_back(bytes.size());
  }
  std::vector<uint32_t> buckets(static_cast<std::size_t>(num_buckets(kInTable)));
  const StringKeys strings = {kInTable, offsets.data(), bytes.data(), bytes.size()};
  const IntKeys ints = {kInTable, numbers.data()};
  const bool is_text = type == KeyType::text;
  CHECK((is_text ? fill_buckets(strings, hash, buckets.data())
                 : fill_buckets(ints, hash, buckets.data())) == -1);
  SlotMap map(is_text ? table_of(strings, buckets, hash) : table_of(ints, buckets, hash));
  std::vector<KeyView> keys;
  for (int64_t i = 0; i < kAll; ++i) {
    const auto at = static_cast<std::size_t>(i);
    keys.push_back(is_text ? KeyView::of(std::string_view(texts[at])) : KeyView::of(numbers[at]));
  }
  keys.push_back({KeyType::none, {}, 0});
  keys.push_back(is_text ? KeyView::of(int64_t{0}) : KeyView::of(std::string_view()));
  std::vector<int64_t> expected(keys.size(), kNoSlot);
  for (int64_t i = 0; i < kInTable; ++i) expected[static_cast<std::size_t>(i)] = i;

  Epochs epochs;
  ForkLock fork_lock(ForkLock::bank, forget_readers, &epochs);
  std::vector<int64_t> order(keys.size()), slots(keys.size());
  std::iota(order.begin(), order.end(), 0);
  for (int round = 0; round < 30; ++round) {
    std::shuffle(order.begin(), order.end(), generator());
    std::vector<KeyView> asked;
    for (const int64_t i : order) asked.push_back(keys[static_cast<std::size_t>(i)]);
    // Also few of them, and more than the steps between which keys are on their way.
    for (const int64_t count : {0, 1, 3, 4, 5, 17, 63, 64, 65, static_cast<int>(asked.size())}) {
      map.find_many(asked.data(), count, slots.data());
      for (int64_t i = 0; i < count; ++i) {
        const auto at = static_cast<std::size_t>(i);
        CHECK(slots[at] == expected[static_cast<std::size_t>(order[at])]);
        CHECK(slots[at] == map.find(asked[at]));
      }
    }
    const LockHeld lock(fork_lock);
    for (int change = 0; change < 20 * round; ++change) {
      const auto at = static_cast<std::size_t>(random_below(kAll));
      SlotMap::Entry& entry = map.entry(lock, keys[at], epochs);
      CHECK(entry.slot.load() == expected[at]);
      if (expected[at] == kNoSlot) {
        map.put(SlotMap::Change(map), entry, expected[at] = 10000 + random_below(1000));
      } else {
        map.remove(SlotMap::Change(map), entry);
        expected[at] = kNoSlot;
        map.tidy(lock, epochs);
      }
    }
    const auto known =
        std::count_if(expected.begin(), expected.end(), [](int64_t s) { return s >= 0; });
    CHECK(map.size() == known);
  }
}

TEST(many_keys_are_found_like_one) {
  for (const KeyType type : {KeyType::text, KeyType::number}) {
    for (const KeyHash& hash : {KeyHash(), KeyHash::random()}) check_many(type, hash);
  }
}

// Keys that come and go leave nothing behind, and one that stays is found all the time.
TEST(removed_keys_leave_no_entries) {
  Epochs epochs;
  ForkLock fork_lock(ForkLock::bank, forget_readers, &epochs);
  const LockHeld lock(fork_lock);
  SlotMap map(nullptr);
  const KeyView stays = KeyView::of(int64_t{-1});
  map.put(SlotMap::Change(map), map.entry(lock, stays, epochs), 5);
  for (const int64_t most : {1, 50, 20000}) {  // alive at a time
    for (int64_t i = 0; i < 100000; ++i) {
      const KeyView added = KeyView::of(i), removed = KeyView::of(i - most);
      map.put(SlotMap::Change(map), map.entry(lock, added, epochs), i);
      if (i >= most) map.remove(SlotMap::Change(map), map.entry(lock, removed, epochs));
      map.tidy(lock, epochs);
      const auto alive = static_cast<std::size_t>(map.size());
      if (i % 1000 == 0) CHECK(map.entries(lock).size() <= 2 * alive + 20);
    }
    for (int64_t i = 100000 - most; i < 100000; ++i) {
      map.remove(SlotMap::Change(map), map.entry(lock, KeyView::of(i), epochs));
      map.tidy(lock, epochs);
    }
    CHECK(map.size() == 1 && map.find(stays) == 5 && map.entries(lock).size() <= 20);
  }
}

// Who made a file knows its seed, and may add keys that all fall into one bucket. The index of what
// was added then takes another seed.
TEST(added_keys_cannot_make_look_ups_slow) {
  const KeyHash hash = {true, 1, 2};
  const std::vector<uint32_t> buckets(2);
  SlotMap map(table_of(IntKeys{0, nullptr}, buckets, hash));
  Epochs epochs;
  ForkLock fork_lock(ForkLock::bank, forget_readers, &epochs);
  const LockHeld lock(fork_lock);
  std::vector<KeyView> keys;
  for (int64_t i = 0; keys.size() < 1200; ++i) {
    if ((hash(i) & 8191) != 0) continue;
    keys.push_back(KeyView::of(i));
    map.put(SlotMap::Change(map), map.entry(lock, keys.back(), epochs), i);
  }
  std::vector<int64_t> slots(keys.size());
  map.find_many(keys.data(), static_cast<int64_t>(keys.size()), slots.data());
  for (std::size_t i = 0; i < keys.size(); ++i) CHECK(slots[i] == keys[i].number);
  CHECK(map.longest_search(lock) < 100);
}

Floats unpacked(const BatchedWeights& weights, int64_t model) {
  std::vector<Floats> parts;
  std::vector<LayerTarget> targets;
  for (const LayerSpec& layer : weights.architecture().layers()) {
    parts.emplace_back(layer.input_size * layer.output_size);
    parts.emplace_back(layer.output_size);
  }
  for (std::size_t i = 0; i < parts.size(); i += 2) {
    targets.push_back({parts[i].data(), parts[i + 1].data()});
  }
  weights.get(model, targets);
  Floats all;
  for (const Floats& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

TEST(snapshot_and_read_only_base) {
  for (const LayoutKind kind : kLayouts) {
    for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16, Dtype::int8}) {
      for (const int64_t models : {1, 5, 16, 35}) {
        const Network net({3, 17, 1}, models);
        const auto weights =
            std::make_shared<BatchedWeights>(models, net.architecture, kind, dtype);
        weights->load(0, models, net.parameters.views(), 1);
        std::vector<Floats> before;
        for (int64_t m = 0; m < models; ++m) before.push_back(unpacked(*weights, m));

        // Half of the models, from the last on, as they were when the snapshot was taken.
        std::vector<int64_t> chosen;
        for (int64_t m = models - 1; m >= 0; m -= 2) chosen.push_back(m);
        const auto count = static_cast<int64_t>(chosen.size());
        const BatchedWeights::Snapshot snapshot(weights);
        weights->load(0, models, net.parameters.negated().views(), 1);
        weights->unload(0);
        const std::shared_ptr<Bytes> memory = exactly(snapshot.copied_bytes(count));
        snapshot.copy(chosen.data(), count, memory.get());

        const ReadOnly base = {memory.get(), snapshot.copied_bytes(count), memory};
        const auto opened =
            std::make_shared<BatchedWeights>(count, net.architecture, kind, dtype, base);
        CHECK(opened->num_models() == count && opened->data() == memory.get());
        for (int64_t i = 0; i < count; ++i)
          CHECK(unpacked(*opened, i) == before[static_cast<std::size_t>(chosen[i])]);
        const Floats x = net.inputs(count, 20);
        const Floats y = forward(BatchedInference(opened, Engine(1, "")), x, 20);

        // What replaces a model lies elsewhere. The base is never written to.
        const Floats kept(reinterpret_cast<float*>(memory.get()),
                          reinterpret_cast<float*>(memory.get()) + base.nbytes / 4);
        opened->grow(20);
        opened->load(0, 1, net.parameters.negated().views(), 1);
        opened->load(count, 20 < models ? 20 : models, net.parameters.views(), 1);
        for (int round = 0; round < 50; ++round)
          opened->load(0, 1, net.parameters.negated().views(), 1);
        opened->unload(0);
        CHECK_THROWS(ModelNotLoaded, "model 0: no weights were loaded", (unpacked(*opened, 0), 0));
        for (int64_t i = 1; i < count; ++i)
          CHECK(unpacked(*opened, i) == before[static_cast<std::size_t>(chosen[i])]);
        CHECK(std::memcmp(kept.data(), memory.get(), static_cast<std::size_t>(base.nbytes)) == 0);
      }
    }
  }
  CHECK_THROWS(std::invalid_argument, "base: expected 256 bytes, 64-byte aligned, got 64",
               BatchedWeights(2, mlp({1, 1}), LayoutKind::panel, Dtype::float32,
                              ReadOnly{nullptr, 64, nullptr}));
}

TEST(a_missing_model_cannot_be_copied) {
  const Network net({2, 3}, 4);
  for (const LayoutKind kind : kLayouts) {
    const auto weights = net.weights(kind);
    weights->unload(2);
    const BatchedWeights::Snapshot snapshot(weights);
    const std::shared_ptr<Bytes> memory = exactly(snapshot.copied_bytes(1));
    for (const int64_t model : {int64_t{2}, int64_t{100}, int64_t{-2}}) {
      CHECK_THROWS(ModelNotLoaded, "model " + std::to_string(model) + ": no weights were loaded",
                   (snapshot.copy(&model, 1, memory.get()), 0));
    }
    const auto size = static_cast<std::size_t>(snapshot.copied_bytes(1));
    const std::vector<Bytes> zeros(size);
    std::memset(memory.get(), 0, size);
    const int64_t vacant = -1;
    snapshot.copy(&vacant, 1, memory.get());
    CHECK(std::memcmp(memory.get(), zeros.data(), size) == 0);
  }
}

}  // namespace

int main(int argc, char** argv) { return run_tests(argc, argv); }
