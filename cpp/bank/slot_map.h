// SlotMap: from the keys of a bank to the slots of its models, while both are added and removed.
//
// A KeyTable that never changes (key i has slot i) and, beside it, what was added to and removed from it since: a hash
// table of pointers to entries. Look-ups take no lock and never wait; whoever looks up holds a reader's token of the
// epochs (epochs.h) meanwhile. Changes are made one at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weights/epochs.h"
#include "bank/keys.h"

namespace mlpbank {

constexpr int64_t kNoSlot = -1;

class SlotMap {
 public:
  // A key that was added, removed or given another slot since the table was made.
  struct Entry {
    KeyKind kind;
    std::string text;
    int64_t number;
    uint64_t hash;
    bool in_table;
    uint64_t order;              // of its last addition, for keys that are not in the table
    std::atomic<int64_t> slot;   // kNoSlot: removed

    KeyView key() const { return {kind, text, number}; }
  };

  explicit SlotMap(std::shared_ptr<const KeyTable> table);
  ~SlotMap();

  const KeyTable* table() const { return table_.get(); }
  KeyKind kind() const { return kind_.load(); }
  int64_t size() const { return size_.load(); }
  // Readers. The slot of a key, kNoSlot if it is unknown or of another kind.
  int64_t find(const KeyView& key) const;
  // Look-ups between two calls that give the same even number were of one moment.
  uint64_t moment() const { return moment_.load(); }

  // What follows is for one thread at a time.
  void set_kind(KeyKind kind) { kind_.store(kind); }
  // The entry of a key, made if there is none; until the next change it stays where it is. Whoever looks the key up
  // finds the same as before. Throws std::bad_alloc.
  Entry& entry(const KeyView& key, Epochs& epochs);
  // Never fail.
  void put(Entry& entry, int64_t slot);
  void remove(Entry& entry);
  // Entries of keys that are not in the table, in the order in which they were added, and of those that are.
  std::vector<const Entry*> entries() const;

 private:
  struct Index {
    explicit Index(uint64_t size) : count(size), places(new std::atomic<Entry*>[size]()) {}
    uint64_t count;  // a power of two
    std::unique_ptr<std::atomic<Entry*>[]> places;
  };
  struct Retired {
    uint64_t stamp;
    std::unique_ptr<Index> index;
    std::list<Entry> entries;
  };

  Entry* look(const KeyView& key, uint64_t hash) const;
  static void insert(Index& index, Entry& entry);
  void rebuild(Epochs& epochs);

  const std::shared_ptr<const KeyTable> table_;
  const KeyHash hash_ = KeyHash::random();
  std::atomic<KeyKind> kind_;
  std::atomic<int64_t> size_;
  std::atomic<const Index*> published_{nullptr};  // what index_ points to; null while nothing was changed
  std::unique_ptr<Index> index_;
  std::list<Entry> entries_;
  std::list<Retired> retired_;
  uint64_t orders_ = 0;
  std::atomic<uint64_t> moment_{0};  // odd while what readers find is being changed
};

}  // namespace mlpbank
