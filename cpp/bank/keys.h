// KeyTable: from keys to slots, over arrays that lie in memory or in a mapped file and never
// change. Key i has slot i.
//
// Open addressing: each bucket holds 0 (empty) or 1 + the slot of a key. The number of buckets is a
// power of two. A search for a key starts at bucket hash(key) modulo that number and takes one
// bucket after the other, up to the first empty one. Opening a file of a million keys builds and
// reads nothing; a look-up touches the pages it needs.
//
// The arrays may come from an untrusted file: with any contents, find() stays inside them and ends.
// A table in which a search takes more than kMaxSteps was made to be slow. It is replaced by a new
// table with a secret seed.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "bank/key_batch.h"
#include "bank/key_view.h"

namespace mlpbank {

// The longest search among 10^8 keys with a good hash takes some 100 steps.
constexpr uint64_t kMaxSteps = 512;

// Texts or tuples: key i is bytes[offsets[i], offsets[i + 1]).
struct StringKeys {
  int64_t count;
  const uint64_t* offsets;
  const char* bytes;
  uint64_t num_bytes;

  // False for a key that reaches outside `bytes`.
  bool get(uint64_t i, std::string_view& key) const;
};

struct IntKeys {
  int64_t count;
  const int64_t* values;

  bool get(uint64_t i, int64_t& key) const {
    key = values[i];
    return true;
  }
};

struct Buckets {
  const uint32_t* data;
  uint64_t count;  // a power of two
};

// Number of buckets for so many keys: at most half of them are in use.
int64_t num_buckets(int64_t count);

// Fills `buckets`, which are num_buckets(keys.count) zeros. Returns the position of the first key
// that equals one before it, or -1.
int64_t fill_buckets(const StringKeys& keys, const KeyHash& hash, uint32_t* buckets);
int64_t fill_buckets(const IntKeys& keys, const KeyHash& hash, uint32_t* buckets);

class KeyTable {
 public:
  // `owner` keeps the arrays alive.
  KeyTable(KeyType type, StringKeys keys, Buckets buckets, KeyHash hash,
           std::shared_ptr<const void> owner);
  KeyTable(IntKeys keys, Buckets buckets, KeyHash hash, std::shared_ptr<const void> owner);
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
  // Asks for the bucket of a hash.
  void prefetch(uint64_t hash) const { prefetch_line(&buckets_.data[hash & (buckets_.count - 1)]); }
  // Looks up the open keys of a batch, which are of this table's type and hashed with its hash, and
  // leaves none open.
  void find_many(KeyBatch& batch) const;
  bool is_rebuilt() const { return rebuilt_.load() != nullptr; }

 private:
  struct Rebuilt;
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
  mutable std::atomic<const Rebuilt*> rebuilt_{nullptr};  // replaces buckets_ that are slow
};

}  // namespace mlpbank
