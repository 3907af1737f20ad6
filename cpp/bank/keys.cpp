// KeyTable: filling buckets, searching them, and rebuilding those that are slow.
#include "bank/keys.h"

#include <algorithm>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace mlpbank {
namespace {

constexpr int64_t kTooLong = -2;

bool same(int64_t a, int64_t b) { return a == b; }
bool same(std::string_view a, std::string_view b) { return same_text(a, b); }

// What asks for key i: `prefetch_place` for where it lies, and then, when that has come,
// `prefetch_key` for itself.
void prefetch_place(const StringKeys& keys, uint64_t i) {
  prefetch_line(keys.offsets + i);
  prefetch_line(keys.offsets + i + 1);  // may lie in the next line
}
void prefetch_key(const StringKeys& keys, uint64_t i) {
  prefetch_line(keys.bytes, keys.offsets[i]);
  prefetch_line(keys.bytes, keys.offsets[i + 1] - 1);
}
void prefetch_place(const IntKeys& keys, uint64_t i) { prefetch_line(keys.values + i); }
void prefetch_key(const IntKeys&, uint64_t) {}

void take(const KeyView& key, int64_t& number) { number = key.number; }
void take(const KeyView& key, std::string_view& text) { text = key.text; }

// Looks up the open keys of a batch, a step for all of them and then the next one. Those that take
// more than `max_steps` stay open. `Key` tells the type of the keys.
template <class Key, class Keys>
void search_many(const Keys& keys, const Buckets& buckets, KeyBatch& batch, uint64_t max_steps) {
  const uint64_t mask = buckets.count - 1;
  const auto count = static_cast<uint64_t>(keys.count);
  uint64_t found[KeyBatch::kSize];  // the positions that buckets hold
  for (uint64_t step = 0; step < max_steps && batch.num_open > 0; ++step) {
    batch.keep_open([&](int i) {
      const uint64_t entry = buckets.data[(batch.hashes[i] + step) & mask];
      found[i] = entry - 1;
      if (found[i] < count) prefetch_place(keys, found[i]);
      return entry != 0;
    });
    for (int n = 0; n < batch.num_open; ++n) {
      const uint64_t at = found[batch.open[n]];
      if (at < count) prefetch_key(keys, at);
    }
    batch.keep_open([&](int i) {
      Key key{}, other{};
      take(batch.keys[i], key);
      if (found[i] >= count || !keys.get(found[i], other) || !same(other, key)) return true;
      batch.slots[i] = static_cast<int64_t>(found[i]);
      return false;
    });
  }
}

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
    if (entry <= static_cast<uint64_t>(keys.count) && keys.get(entry - 1, other) &&
        same(other, key)) {
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
      return keys.get(buckets[bucket & mask] - 1, other) && same(other, key);
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

int64_t KeyTable::find(const KeyView& key, uint64_t hash) const {
  return key_type_ == KeyType::number ? find_in(ints_, key.number, hash)
                                      : find_in(strings_, key.text, hash);
}

template <class Keys, class Key>
int64_t KeyTable::find_in(const Keys& keys, Key key, uint64_t hash) const {
  const Rebuilt* rebuilt = rebuilt_.load(std::memory_order_acquire);
  if (rebuilt == nullptr) {
    const int64_t found = search(keys, buckets_, hash, key, kMaxSteps);
    if (found != kTooLong) return found;
    rebuilt = &rebuild(keys);
  }
  return search(keys, rebuilt->buckets(), rebuilt->hash(key), key, rebuilt->data.size());
}

void KeyTable::find_many(KeyBatch& batch) const {
  if (rebuilt_.load(std::memory_order_acquire) == nullptr) {
    const uint64_t max_steps = std::min(buckets_.count, kMaxSteps);
    if (key_type_ == KeyType::number) {
      search_many<int64_t>(ints_, buckets_, batch, max_steps);
    } else {
      search_many<std::string_view>(strings_, buckets_, batch, max_steps);
    }
  }
  batch.keep_open([&](int i) {
    batch.slots[i] = find(batch.keys[i], batch.hashes[i]);
    return false;
  });
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
