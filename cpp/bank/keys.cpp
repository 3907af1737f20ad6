// KeyTable: filling buckets, searching them, and rebuilding those that are slow.
#include "bank/keys.h"

#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace mlpbank {
namespace {

constexpr int64_t kTooLong = -2;

// The slot of a key, kNoSlot, or kTooLong after `max_steps`.
template <class Keys, class Key>
int64_t search(const Keys& keys, const Buckets& buckets, uint64_t hash, Key key,
               uint64_t max_steps) {
  const uint64_t mask = buckets.count - 1;
  for (uint64_t step = 0; step < buckets.count; ++step) {
    if (step == max_steps) return kTooLong;
    const uint64_t entry = buckets.data[(hash + step) & mask];
    if (entry == 0) return kNoSlot;
    Key other;
    if (entry <= static_cast<uint64_t>(keys.count) && keys.get(entry - 1, other) && other == key) {
      return static_cast<int64_t>(entry) - 1;
    }
  }
  return kNoSlot;
}

// Of equal keys the first one gets a bucket. `Key` tells the type of the keys.
template <class Key, class Keys>
int64_t fill(const Keys& keys, const KeyHash& hash, uint32_t* buckets) {
  const uint64_t mask = static_cast<uint64_t>(num_buckets(keys.count)) - 1;
  int64_t duplicate = -1;
  for (int64_t i = 0; i < keys.count; ++i) {
    Key key{}, other{};
    if (!keys.get(static_cast<uint64_t>(i), key)) continue;
    uint64_t bucket = hash(key);
    const auto holds_key = [&] {
      return keys.get(buckets[bucket & mask] - 1, other) && other == key;
    };
    while (buckets[bucket & mask] != 0 && !holds_key()) ++bucket;
    if (buckets[bucket & mask] == 0) {
      buckets[bucket & mask] = static_cast<uint32_t>(i + 1);
    } else if (duplicate < 0) {
      duplicate = i;
    }
  }
  return duplicate;
}

}  // namespace

KeyHash KeyHash::random() {
  std::random_device device;
  const auto word = [&] { return static_cast<uint64_t>(device()) << 32 | device(); };
  return {true, word(), word()};
}

bool StringKeys::get(uint64_t i, std::string_view& key) const {
  const uint64_t begin = offsets[i], end = offsets[i + 1];
  if (begin > end || end > num_bytes) return false;
  key = std::string_view(bytes + begin, end - begin);
  return true;
}

int num_parts(KeyType tuple) {
  int parts = 0;
  for (uint32_t bits = static_cast<uint32_t>(tuple) & ~kTuple; bits > 1; bits >>= 1) ++parts;
  return parts;
}

int64_t num_buckets(int64_t count) {
  int64_t buckets = 2;
  while (buckets < 2 * count) buckets *= 2;
  return buckets;
}

int64_t fill_buckets(const StringKeys& keys, const KeyHash& hash, uint32_t* buckets) {
  return fill<std::string_view>(keys, hash, buckets);
}
int64_t fill_buckets(const IntKeys& keys, const KeyHash& hash, uint32_t* buckets) {
  return fill<int64_t>(keys, hash, buckets);
}

struct KeyTable::Rebuilt {
  std::vector<uint32_t> data;
  KeyHash hash;

  Buckets buckets() const { return {data.data(), data.size()}; }
};

KeyTable::KeyTable(KeyType type, StringKeys keys, Buckets buckets, KeyHash hash,
                   std::shared_ptr<const void> owner)
    : key_type_(type), strings_(keys), buckets_(buckets), hash_(hash), owner_(std::move(owner)) {}

KeyTable::KeyTable(IntKeys keys, Buckets buckets, KeyHash hash, std::shared_ptr<const void> owner)
    : key_type_(KeyType::number),
      ints_(keys),
      buckets_(buckets),
      hash_(hash),
      owner_(std::move(owner)) {}

KeyTable::~KeyTable() { delete rebuilt_.load(); }

int64_t KeyTable::find(const KeyView& key) const {
  return key_type_ == KeyType::number ? find_in(ints_, key.number) : find_in(strings_, key.text);
}

template <class Keys, class Key>
int64_t KeyTable::find_in(const Keys& keys, Key key) const {
  const Rebuilt* rebuilt = rebuilt_.load(std::memory_order_acquire);
  if (rebuilt == nullptr) {
    const int64_t found = search(keys, buckets_, hash_(key), key, kMaxSteps);
    if (found != kTooLong) return found;
    rebuilt = &rebuild(keys);
  }
  return search(keys, rebuilt->buckets(), rebuilt->hash(key), key, rebuilt->data.size());
}

template <class Keys>
const KeyTable::Rebuilt& KeyTable::rebuild(const Keys& keys) const {
  auto rebuilt = std::make_unique<Rebuilt>();
  rebuilt->data.resize(static_cast<std::size_t>(num_buckets(keys.count)));
  rebuilt->hash = KeyHash::random();
  fill_buckets(keys, rebuilt->hash, rebuilt->data.data());
  const Rebuilt* first = nullptr;  // another thread may have been faster
  return rebuilt_.compare_exchange_strong(first, rebuilt.get()) ? *rebuilt.release() : *first;
}

}  // namespace mlpbank
