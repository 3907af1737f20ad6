// KeyTable: filling buckets, searching them, and rebuilding those that are slow.
#include "bank/keys.h"

#include <algorithm>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "buffer.h"

namespace mlpbank {
namespace {

// The bits that slots of so many keys leave to tags.
uint32_t tag_bits(int64_t count, const KeyHash& hash) {
  if (!hash.seeded) return 0;  // as in files of format version 1
  uint32_t bits = ~uint32_t{0};
  while ((static_cast<uint64_t>(count) & bits) != 0) bits <<= 1;
  return bits;
}

// The slot of a key, kNoSlot, or kTooLong.
template <class Keys, class Key>
int64_t search(const Keys& keys, const Buckets& buckets, uint64_t hash, Key key) {
  for (uint64_t step = 0;; ++step) {
    const int64_t slot = buckets.next(hash, step);
    if (slot < 0 || (slot < keys.count && keys.holds(slot, key))) return slot;
  }
}

// Of equal keys the first one gets a bucket. `Key` tells the type of the keys.
template <class Key, class Keys>
int64_t fill(const Keys& keys, const KeyHash& hash, uint32_t* to) {
  Buckets buckets = {to, static_cast<uint64_t>(num_buckets(keys.count)),
                     tag_bits(keys.count, hash)};
  buckets.max_steps = buckets.count;
  int64_t duplicate = -1;
  for (int64_t i = 0; i < keys.count; ++i) {
    Key key{};
    if (!keys.get(i, key)) continue;
    const uint64_t hashed = hash(key);
    uint64_t step = 0;
    int64_t slot = buckets.next(hashed, step);
    while (slot != kNoSlot && !keys.holds(slot, key)) slot = buckets.next(hashed, ++step);
    if (slot == kNoSlot) {
      to[(hashed + step) & (buckets.count - 1)] =
          static_cast<uint32_t>(i + 1) | buckets.tag_of(hashed);
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
  explicit Rebuilt(int64_t count)
      : data(static_cast<std::size_t>(num_buckets(count))), tags(tag_bits(count, hash)) {}
  Buckets buckets() const { return {data.data(), data.size(), tags, data.size()}; }

  const KeyHash hash = KeyHash::random();
  std::vector<uint32_t> data;
  const uint32_t tags;
};

// The pages of a table's arrays.
struct KeyTable::Pages {
  int64_t remaining() const { return buckets.remaining() + places.remaining() + text.remaining(); }

  MappedPages buckets;
  MappedPages places;  // offsets of texts, or numbers
  MappedPages text;
};

std::unique_ptr<KeyTable::Pages> KeyTable::pages_of(const Buckets& buckets, const void* places,
                                                    int64_t num_places, const void* text,
                                                    uint64_t text_bytes) {
  constexpr auto kPlace = static_cast<int64_t>(sizeof(uint64_t));
  return std::unique_ptr<Pages>(
      new Pages{{buckets.data, static_cast<int64_t>(buckets.count * sizeof(uint32_t))},
                {places, num_places * kPlace},
                {text, static_cast<int64_t>(text_bytes)}});
}

KeyTable::KeyTable(KeyType type, StringKeys keys, Buckets buckets, KeyHash hash,
                   std::shared_ptr<const void> owner, bool is_mapped)
    : key_type_(type), strings_(keys), buckets_(buckets), hash_(hash), owner_(std::move(owner)) {
  if (is_mapped) {
    pages_ = pages_of(buckets, keys.offsets, keys.count + 1, keys.bytes, keys.num_bytes);
  } else {
    use_huge_pages(buckets.data, static_cast<int64_t>(buckets.count * sizeof(uint32_t)));
    use_huge_pages(keys.offsets, (keys.count + 1) * static_cast<int64_t>(sizeof(uint64_t)));
    use_huge_pages(keys.bytes, static_cast<int64_t>(keys.num_bytes));
  }
  buckets_.tag_bits &= tag_bits(keys.count, hash);
}

KeyTable::KeyTable(IntKeys keys, Buckets buckets, KeyHash hash, std::shared_ptr<const void> owner,
                   bool is_mapped)
    : key_type_(KeyType::number),
      ints_(keys),
      buckets_(buckets),
      hash_(hash),
      owner_(std::move(owner)) {
  if (is_mapped) pages_ = pages_of(buckets, keys.values, keys.count, nullptr, 0);
  buckets_.tag_bits &= tag_bits(keys.count, hash);
}

void KeyTable::request_pages(const KeyView* keys, int64_t count) const {
  // Reading so much in one go takes as long as reading the pages of one key.
  constexpr int64_t kBytesForKey = 64 << 10;
  const int64_t remaining = pages_ == nullptr ? 0 : pages_->remaining();
  if (remaining == 0) return;
  if (remaining <= count * kBytesForKey) {
    pages_->buckets.request_all();
    pages_->places.request_all();
    pages_->text.request_all();
    return;
  }
  // Each step asks for all pages that the next one reads.
  constexpr int64_t kAtOnce = 1024;
  uint64_t hashes[kAtOnce];
  int64_t slots[kAtOnce];
  for (int64_t first = 0; first < count; first += kAtOnce) {
    const int64_t n = std::min(kAtOnce, count - first);
    for (int64_t i = 0; i < n; ++i) {
      hashes[i] = keys[first + i].hash(hash_);
      pages_->buckets.request(&buckets_.at(hashes[i]), sizeof(uint32_t));
    }
    for (int64_t i = 0; i < n; ++i) {
      slots[i] = candidate(hashes[i]);
      if (slots[i] < 0 || slots[i] >= this->count()) continue;
      if (key_type_ == KeyType::number) {
        pages_->places.request(ints_.values + slots[i], sizeof(int64_t));
      } else {
        pages_->places.request(strings_.offsets + slots[i], 2 * sizeof(uint64_t));
      }
    }
    for (int64_t i = 0; i < n && key_type_ != KeyType::number; ++i) {
      std::string_view text;
      if (slots[i] < 0 || slots[i] >= this->count() || !strings_.get(slots[i], text)) continue;
      // A text of another length is not read. (In a file that was made to be slow, each may be as
      // long as all.)
      if (text.size() != keys[first + i].text.size()) continue;
      pages_->text.request(text.data(), static_cast<int64_t>(text.size()));
    }
  }
}

KeyTable::~KeyTable() { delete rebuilt_.load(); }

int64_t KeyTable::find(const KeyView& key, uint64_t hash) const {
  return key_type_ == KeyType::number ? find_in(ints_, key.number, hash)
                                      : find_in(strings_, key.text, hash);
}

template <class Keys, class Key>
int64_t KeyTable::find_in(const Keys& keys, Key key, uint64_t hash) const {
  const Rebuilt* rebuilt = rebuilt_.load(std::memory_order_acquire);
  if (rebuilt == nullptr) {
    const int64_t found = search(keys, buckets_, hash, key);
    if (found != Buckets::kTooLong) return found;
    rebuilt = &rebuild(keys);
  }
  return search(keys, rebuilt->buckets(), rebuilt->hash(key), key);
}

template <class Keys>
const KeyTable::Rebuilt& KeyTable::rebuild(const Keys& keys) const {
  auto rebuilt = std::make_unique<Rebuilt>(keys.count);
  fill_buckets(keys, rebuilt->hash, rebuilt->data.data());
  const Rebuilt* first = nullptr;  // another thread may have been faster
  return rebuilt_.compare_exchange_strong(first, rebuilt.get()) ? *rebuilt.release() : *first;
}

}  // namespace mlpbank
