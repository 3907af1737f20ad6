// KeyTable: from keys to slots, over arrays that lie in memory or in a mapped file and never
// change. Key i has slot i.
//
// Open addressing: each bucket holds 0 (empty) or 1 + the slot of a key. The number of buckets is a
// power of two. A search for a key starts at bucket hash(key) modulo that number and takes one
// bucket after the other, up to the first empty one. Where the hash has a seed, the upper bits of a
// bucket that slots do not need hold those of the hash, its tag. So keys that differ are rarely
// read. Opening a file of a million keys builds and reads nothing; a look-up touches the pages it
// needs.
//
// The arrays may come from an untrusted file: with any contents, find() stays inside them and ends.
// A table in which a search takes more than kMaxSteps was made to be slow. It is replaced by a new
// table with a secret seed.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "bank/key_memory.h"
#include "bank/key_view.h"
#include "mapped_pages.h"

namespace mlpbank {

// The longest search among 10^8 keys with a good hash takes some 100 steps.
constexpr uint64_t kMaxSteps = 512;

// Texts or tuples: key i is bytes[offsets[i], offsets[i + 1]).
struct StringKeys {
  int64_t count;
  const uint64_t* offsets;
  const char* bytes;
  uint64_t num_bytes;
  std::shared_ptr<const std::vector<bool>> vacant = nullptr;  // positions without a key; null: none

  // False where there is no key, or one that reaches outside `bytes`.
  bool get(int64_t i, std::string_view& key) const {
    if (vacant != nullptr && (*vacant)[static_cast<std::size_t>(i)]) return false;
    const uint64_t begin = offsets[i], end = offsets[i + 1];
    if (begin > end || end > num_bytes) return false;
    key = std::string_view(bytes + begin, end - begin);
    return true;
  }
  bool holds(int64_t i, std::string_view key) const {
    std::string_view other;
    return get(i, other) && same_text(other, key);
  }
};

struct IntKeys {
  int64_t count;
  const int64_t* values;
  std::shared_ptr<const std::vector<bool>> vacant = nullptr;

  bool get(int64_t i, int64_t& key) const {
    key = values[i];
    return vacant == nullptr || !(*vacant)[static_cast<std::size_t>(i)];
  }
  bool holds(int64_t i, int64_t key) const { return values[i] == key; }
};

// The buckets of a table. Those of a damaged file may hold anything.
struct Buckets {
  static constexpr int64_t kTooLong = -2;

  const uint32_t* data;
  uint64_t count;                    // a power of two
  uint32_t tag_bits = ~uint32_t{0};  // a KeyTable takes those that its slots leave; 0: no tags
  uint64_t max_steps = std::min(count, kMaxSteps);

  const uint32_t& at(uint64_t place) const { return data[place & (count - 1)]; }
  uint32_t tag_of(uint64_t hash) const { return static_cast<uint32_t>(hash >> 32) & tag_bits; }
  // The slot in the next bucket that may be that of a key with this hash, from `step` on, though it
  // may be more than there are. kNoSlot at an empty bucket, kTooLong after max_steps.
  int64_t next(uint64_t hash, uint64_t& step) const {
    const uint32_t tag = tag_of(hash);
    for (; step < max_steps; ++step) {
      const uint32_t bucket = at(hash + step);
      if (bucket == 0) return kNoSlot;
      if ((bucket & tag_bits) == tag) return static_cast<int64_t>(bucket & ~tag_bits) - 1;
    }
    return max_steps == count ? kNoSlot : kTooLong;
  }
};

// Number of buckets for so many keys: at most half of them are in use.
int64_t num_buckets(int64_t count);

// Fills `buckets`, which are num_buckets(keys.count) zeros. Returns the position of the first key
// that equals one before it, or -1.
int64_t fill_buckets(const StringKeys& keys, const KeyHash& hash, uint32_t* buckets);
int64_t fill_buckets(const IntKeys& keys, const KeyHash& hash, uint32_t* buckets);

class KeyTable {
 public:
  // `owner` keeps the arrays alive. They may lie in a mapped file.
  KeyTable(KeyType type, StringKeys keys, Buckets buckets, KeyHash hash,
           std::shared_ptr<const void> owner, bool is_mapped = false);
  KeyTable(IntKeys keys, Buckets buckets, KeyHash hash, std::shared_ptr<const void> owner,
           bool is_mapped = false);
  ~KeyTable();

  KeyType key_type() const { return key_type_; }
  int64_t count() const { return key_type_ == KeyType::number ? ints_.count : strings_.count; }
  // How its buckets are filled.
  const KeyHash& hash() const { return hash_; }
  // The slot of a key of this table's type, or kNoSlot. Lock-free. Throws std::bad_alloc where a
  // table that was made to be slow has to be rebuilt.
  int64_t find(const KeyView& key) const { return find(key, key.hash(hash_)); }
  // The same for a key that is hashed already.
  int64_t find(const KeyView& key, uint64_t hash) const;
  bool is_rebuilt() const { return rebuilt_.load() != nullptr; }

  // Before looking up many keys of this table's type: asks for the pages of a mapped file that hold
  // them, so that the disk reads many at once.
  void request_pages(const KeyView* keys, int64_t count) const;

  // A look-up in steps, for those who have many: each asks for the memory that the next one reads.
  void prefetch_bucket(uint64_t hash) const { prefetch_line(&buckets_.at(hash)); }
  // The first slot that may be that of a key with this hash, kNoSlot if there is none. A slot that
  // is not below count(), or does not hold the key in the end, leaves the look-up to find().
  int64_t candidate(uint64_t hash) const {
    uint64_t step = 0;
    return buckets_.next(hash, step);
  }
  void prefetch_place(int64_t slot) const {
    if (key_type_ == KeyType::number) return prefetch_line(ints_.values + slot);
    prefetch_line(strings_.offsets + slot);
    prefetch_line(strings_.offsets + slot + 1);  // may lie in the next line
  }
  void prefetch_key(int64_t slot) const {
    if (key_type_ == KeyType::number) return;
    prefetch_line_at(strings_.bytes, strings_.offsets[slot]);
    prefetch_line_at(strings_.bytes, strings_.offsets[slot + 1] - 1);
  }
  bool holds(int64_t slot, const KeyView& key) const {
    return key_type_ == KeyType::number ? ints_.holds(slot, key.number)
                                        : strings_.holds(slot, key.text);
  }

 private:
  struct Rebuilt;
  struct Pages;
  static std::unique_ptr<Pages> pages_of(const Buckets& buckets, const void* places,
                                         int64_t num_places, const void* text, uint64_t text_bytes);
  template <class Keys, class Key>
  int64_t find_in(const Keys& keys, Key key, uint64_t hash) const;
  template <class Keys>
  const Rebuilt& rebuild(const Keys& keys) const;

  KeyType key_type_;
  StringKeys strings_{0, nullptr, nullptr, 0};
  IntKeys ints_{0, nullptr};
  Buckets buckets_;
  KeyHash hash_;
  std::shared_ptr<const void> owner_;
  std::unique_ptr<Pages> pages_;                          // of a mapped file; null for others
  mutable std::atomic<const Rebuilt*> rebuilt_{nullptr};  // replaces buckets_ that are slow
};

}  // namespace mlpbank
