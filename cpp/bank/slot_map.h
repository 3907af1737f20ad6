// SlotMap: from the keys of a bank to the slots of its models, while both are added and removed.
//
// It is a KeyTable that never changes and, beside it, a hash table of entries for the keys that
// were added or removed since. Look-ups are lock-free; a thread that looks up is inside an
// EpochGuard of the bank. Methods that modify take the bank's lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "bank/keys.h"
#include "fork_lock.h"
#include "weights/epochs.h"

namespace mlpbank {

class SlotMap {
 public:
  // A key that was added, removed or given another slot since the table was made.
  struct Entry {
    KeyType type;
    std::string text;
    int64_t number;
    uint64_t hash;
    bool in_table;
    uint64_t order;             // of its last addition, for keys that are not in the table
    std::atomic<int64_t> slot;  // kNoSlot: removed

    KeyView key() const { return {type, text, number}; }
  };

  explicit SlotMap(std::shared_ptr<const KeyTable> table);
  ~SlotMap();

  const KeyTable* table() const { return table_.get(); }
  KeyType key_type() const { return key_type_.load(); }
  int64_t size() const { return size_.load(); }
  // The slot of a key; kNoSlot if the key is unknown or of another kind.
  int64_t find(const KeyView& key) const;
  // Look-ups between two calls that return the same even number saw the map at one moment.
  uint64_t moment() const { return moment_.load(); }

  void set_key_type(const LockHeld&, KeyType type) { key_type_.store(type); }
  // The entry of a key, made if there is none. It stays where it is until the next change. Look-ups
  // find the same as before. Throws std::bad_alloc.
  Entry& entry(const LockHeld&, const KeyView& key, Epochs& epochs);
  // Never fail.
  void put(const LockHeld&, Entry& entry, int64_t slot);
  void remove(const LockHeld&, Entry& entry);
  // All entries; those of keys that are not in the table are in the order of their addition.
  std::vector<const Entry*> entries(const LockHeld&) const;

 private:
  struct Index {
    explicit Index(uint64_t size) : count(size), buckets(new std::atomic<Entry*>[size]()) {}
    uint64_t count;  // a power of two
    std::unique_ptr<std::atomic<Entry*>[]> buckets;
  };
  struct Retired {
    uint64_t stamp;
    std::unique_ptr<Index> index;
    std::list<Entry> entries;
  };

  Entry* find_entry(const KeyView& key, uint64_t hash) const;
  static void insert(Index& index, Entry& entry);
  void rebuild(const LockHeld&, Epochs& epochs);

  const std::shared_ptr<const KeyTable> table_;
  const KeyHash hash_ = KeyHash::random();
  std::atomic<KeyType> key_type_;
  std::atomic<int64_t> size_;
  // What index_ owns; null: nothing was changed.
  std::atomic<const Index*> published_index_{nullptr};
  std::atomic<uint64_t> moment_{0};  // odd while a change is being made

  // Guarded by the bank's lock.
  std::unique_ptr<Index> index_;
  std::list<Entry> entries_;
  std::list<Retired> retired_;
  uint64_t orders_ = 0;
};

}  // namespace mlpbank
