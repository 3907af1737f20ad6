// What bank files rest on: key tables, weights over read-only memory, snapshots.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"
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

// Tables in mapped files ask for their pages before they look up: here for those of a few keys among
// many, from contents that may be damaged.
TEST(tables_of_mapped_files) {
  constexpr int64_t kCount = 100000;
  const KeyHash hash = KeyHash::random();
  std::vector<int64_t> values(kCount);
  std::iota(values.begin(), values.end(), int64_t{-7});
  std::vector<uint64_t> offsets = {0};
  std::string bytes;
  for (int64_t i = 0; i < kCount; ++i) {
    bytes += "key-" + std::to_string(i);
    offsets.push_back(bytes.size());
  }
  std::vector<uint32_t> number_buckets(static_cast<std::size_t>(num_buckets(kCount)));
  std::vector<uint32_t> text_buckets(number_buckets);
  const IntKeys numbers = {kCount, values.data()};
  const StringKeys texts = {kCount, offsets.data(), bytes.data(), bytes.size()};
  fill_buckets(numbers, hash, number_buckets.data());
  fill_buckets(texts, hash, text_buckets.data());
  for (const bool damaged : {false, true}) {
    if (damaged) {
      for (uint64_t& offset : offsets) offset = random_below(3) ? generator()() : offset;
      for (uint32_t& bucket : text_buckets) bucket = random_below(3) ? bucket : generator()();
      for (uint32_t& bucket : number_buckets) bucket = random_below(3) ? bucket : generator()();
    }
    const SlotMap by_number(std::make_shared<const KeyTable>(
        numbers, Buckets{number_buckets.data(), number_buckets.size()}, hash, nullptr, true));
    const SlotMap by_text(std::make_shared<const KeyTable>(
        KeyType::text, texts, Buckets{text_buckets.data(), text_buckets.size()}, hash, nullptr,
        true));
    for (int round = 0; round < 2000; ++round) {
      std::vector<std::string> names;
      std::vector<KeyView> asked_numbers, asked_texts;
      for (int i = 0; i < 5; ++i)
        names.push_back("key-" + std::to_string(random_below(kCount + 9)));
      for (const std::string& name : names) {
        asked_texts.push_back(KeyView::of(name));
        asked_numbers.push_back(KeyView::of(std::stoll(name.substr(4)) - 7));
      }
      int64_t slots[2][5];
      by_text.find_many(asked_texts.data(), 5, slots[0]);
      by_number.find_many(asked_numbers.data(), 5, slots[1]);
      for (std::size_t i = 0; i < 5; ++i) {
        const int64_t n = asked_numbers[i].number + 7, expected = n < kCount ? n : kNoSlot;
        for (const auto& found : slots) {
          CHECK(found[i] == expected || (damaged && found[i] == kNoSlot));
        }
      }
    }
  }
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
    for (const int64_t model : {int64_t{2}, int64_t{100}, int64_t{-1}}) {
      CHECK_THROWS(ModelNotLoaded, "model " + std::to_string(model) + ": no weights were loaded",
                   (snapshot.copy(&model, 1, memory.get()), 0));
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return run_tests(argc, argv); }
