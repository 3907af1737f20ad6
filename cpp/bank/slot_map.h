// SlotMap: from the keys of a bank to the slots of its models, while both are added and removed.
//
// It is a KeyTable that never changes and, beside it, a hash table of entries for the keys that
// were added or removed since. Both take one hash of a key, where the table has a secret seed.
// Look-ups are lock-free; a thread that looks up is inside an EpochGuard of the bank. Methods that
// modify take the bank's lock.
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
    std::string text;
    int64_t number;
    std::atomic<int64_t> slot;  // kNoSlot: removed
    uint64_t order;             // of its last addition, for keys that are not in the table
    KeyType type;
    bool in_table;

    KeyView key() const { return {type, text, number}; }
    bool is_dead() const { return !in_table && slot.load(std::memory_order_relaxed) == kNoSlot; }
  };

  // The table has no key at `num_vacant` of its positions.
  explicit SlotMap(std::shared_ptr<const KeyTable> table, int64_t num_vacant = 0);

  KeyType key_type() const { return key_type_.load(); }
  int64_t size() const { return size_.load(); }
  // The slot of a key; kNoSlot if the key is unknown or of another kind.
  int64_t find(const KeyView& key) const;
  // The same for many keys, which takes less time for each: while memory of one is on its way,
  // others are looked up.
  void find_many(const KeyView* keys, int64_t count, int64_t* slots) const;
  // Look-ups between two calls that return the same even number saw the map at one moment.
  uint64_t moment() const { return moment_.load(); }

  void set_key_type(const LockHeld&, KeyType type) { key_type_.store(type); }
  // The entry of a key, made if there is none. It stays where it is until the next change. Look-ups
  // find the same as before. Throws std::bad_alloc.
  Entry& entry(const LockHeld&, const KeyView& key, Epochs& epochs);
  // Makes room for so many entries: the next so many that are made leave all others where they are.
  // Throws std::bad_alloc.
  void reserve(const LockHeld& lock, uint64_t count, Epochs& epochs);
  // While one lives, the map is changing. Needs the bank's lock.
  class Change {
   public:
    explicit Change(SlotMap& map) : map_(map) { ++map_.moment_; }
    ~Change() { ++map_.moment_; }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

   private:
    SlotMap& map_;
  };
  // Never fail.
  void put(const Change&, Entry& entry, int64_t slot);
  void remove(const Change&, Entry& entry);
  // Gives back memory of removed keys, where there is much of it.
  void tidy(const LockHeld&, Epochs& epochs) noexcept;
  // All entries; those of keys that are not in the table are in the order of their addition.
  std::vector<const Entry*> entries(const LockHeld&) const;
  // The most steps that finding one of them takes.
  uint64_t longest_search(const LockHeld&) const;

 private:
  // A bucket is filled once: `hash` before `entry`.
  struct Bucket {
    std::atomic<Entry*> entry{nullptr};
    uint64_t hash;
  };
  // Open addressing like that of a KeyTable. At most half of the buckets are in use.
  struct Index {
    Index(uint64_t size, const KeyHash& by) : count(size), hash(by), buckets(new Bucket[size]) {}
    const Bucket& at(uint64_t place) const { return buckets[place & (count - 1)]; }
    Entry* find(const KeyView& key, uint64_t key_hash) const;
    // The first entry with this hash, which may be that of another key.
    const Entry* candidate(uint64_t key_hash) const;
    // Returns after how many steps the entry has found its bucket.
    uint64_t insert(Entry& entry, uint64_t key_hash);

    const uint64_t count;  // a power of two
    const KeyHash hash;
    const std::unique_ptr<Bucket[]> buckets;
  };
  using Entries = std::vector<std::unique_ptr<Entry>>;
  // What look-ups that began before may still see.
  struct Retired {
    uint64_t stamp;
    std::unique_ptr<Index> index;
    Entries entries;
  };

  class Pipeline;
  bool shares_hash(const Index& index) const {
    return table_ != nullptr && index.hash == table_->hash();
  }
  enum class Dead { drop, keep };
  void rebuild(const LockHeld&, Epochs& epochs, const KeyHash& hash, Dead dead, uint64_t room = 1);
  void reclaim(Epochs& epochs);

  const std::shared_ptr<const KeyTable> table_;
  std::atomic<KeyType> key_type_;
  std::atomic<int64_t> size_;
  // What index_ owns; null: nothing was changed.
  std::atomic<const Index*> published_index_{nullptr};
  std::atomic<uint64_t> moment_{0};  // odd while a change is being made

  // Guarded by the bank's lock.
  std::unique_ptr<Index> index_;
  Entries entries_;
  uint64_t num_dead_ = 0;  // entries of keys that are neither in the table nor in the bank
  std::list<Retired> retired_;
  uint64_t orders_ = 0;
};

}  // namespace mlpbank
