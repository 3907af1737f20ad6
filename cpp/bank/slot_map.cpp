// SlotMap: look-ups, and an index that is rebuilt as entries are added and removed.
#include "bank/slot_map.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <utility>

#include "bank/hash_many.h"

namespace mlpbank {
namespace {

constexpr uint64_t kLeastBuckets = 16;  // of an index

// Files of format version 1 have no seed, so strangers know where their keys fall. Entries of such
// a bank have a hash of their own.
KeyHash hash_beside(const KeyTable* table) {
  return table != nullptr && table->hash().seeded ? table->hash() : KeyHash::random();
}

}  // namespace

SlotMap::SlotMap(std::shared_ptr<const KeyTable> table, int64_t num_vacant)
    : table_(std::move(table)),
      key_type_(table_ == nullptr ? KeyType::none : table_->key_type()),
      size_(table_ == nullptr ? 0 : table_->count() - num_vacant) {}

SlotMap::Entry* SlotMap::Index::find(const KeyView& key, uint64_t key_hash) const {
  for (uint64_t place = key_hash;; ++place) {  // there is always an empty bucket
    const Bucket& bucket = at(place);
    Entry* const entry = bucket.entry.load(std::memory_order_acquire);
    if (entry == nullptr || (bucket.hash == key_hash && entry->key() == key)) return entry;
  }
}

int64_t SlotMap::find(const KeyView& key) const {
  if (key.type != key_type_.load(std::memory_order_relaxed)) return kNoSlot;
  const bool may_be_in_table = table_ != nullptr && key.type == table_->key_type();
  const Index* const index = published_index_.load();
  if (index == nullptr) return may_be_in_table ? table_->find(key) : kNoSlot;
  const uint64_t hash = key.hash(index->hash);
  if (const Entry* entry = index->find(key, hash)) return entry->slot.load();
  if (!may_be_in_table) return kNoSlot;
  return shares_hash(*index) ? table_->find(key, hash) : table_->find(key);
}

const SlotMap::Entry* SlotMap::Index::candidate(uint64_t key_hash) const {
  for (uint64_t place = key_hash;; ++place) {
    const Bucket& bucket = at(place);
    const Entry* const entry = bucket.entry.load(std::memory_order_acquire);
    if (entry == nullptr || bucket.hash == key_hash) return entry;
  }
}

// Looks up many keys in steps, and each step of a key some keys after the one before. So the memory
// that a step has asked for is there when the next one reads it. The CPU waits for few lines of
// memory at a time, and all of them shall be those of the tables: keys are read, and hashed, before
// the steps of a chunk, and slots are written after them.
class SlotMap::Pipeline {
 public:
  Pipeline(const SlotMap& map, const Index* index, KeyType type)
      : map_(map),
        index_(index),
        table_(map.table_ != nullptr && map.table_->key_type() == type ? map.table_.get()
                                                                       : nullptr),
        type_(type),
        table_hashes_(index != nullptr && !map.shares_hash(*index) ? other_hashes_ : hashes_) {}

  void run(const KeyView* keys, int64_t count, int64_t* slots) {
    for (int64_t begin = 0; begin < count; begin += kChunk) {
      const int64_t here = std::min(kChunk, count - begin);
      hash(keys + begin, here);
      if (index_ != nullptr) {
        find<true, 3>(keys + begin, here);
      } else if (table_ == nullptr) {
        std::fill_n(slots_, here, kNoSlot);
      } else if (type_ != KeyType::number) {
        find<false, 3>(keys + begin, here);
      } else {
        find<false, 2>(keys + begin, here);  // a number lies where a text has its place
      }
      for (int64_t i = 0; i < here; ++i)
        slots[begin + i] = keys[begin + i].type == type_ ? slots_[i] : kNoSlot;
    }
  }

 private:
  static constexpr int64_t kChunk = 512;
  static constexpr int64_t kDistance = 16;  // from a step of a key to the next one, in keys
  static constexpr int64_t kAskAll = -2;  // among slots: two hashes are equal, or the table is slow

  void hash(const KeyView* keys, int64_t count) {
    if (index_ != nullptr) hash_many(index_->hash, type_, keys, count, hashes_);
    if (table_ != nullptr && (index_ == nullptr || table_hashes_ != hashes_))
      hash_many(table_->hash(), type_, keys, count, table_hashes_);
  }

  template <bool kHasIndex, int kSteps>
  void find(const KeyView* keys, int64_t count) {
    for (int64_t i = 0; i < count + kSteps * kDistance; ++i) {
      if (i < count) {
        if (kHasIndex) prefetch_line(&index_->at(hashes_[i]));
        if (!kHasIndex || table_ != nullptr) table_->prefetch_bucket(table_hashes_[i]);
      }
      const int64_t b = i - kDistance, c = b - kDistance, d = i - kSteps * kDistance;
      if (b >= 0 && b < count) choose<kHasIndex>(b);
      if (kSteps > 2 && c >= 0 && c < count) approach<kHasIndex>(c);
      if (d >= 0) slots_[d] = finish<kHasIndex>(keys[d], d);
    }
  }

  // Asks for the entry, or for where the key lies in the table.
  template <bool kHasIndex>
  void choose(int64_t i) {
    if (kHasIndex) {
      const Entry* const entry = entries_[i] = index_->candidate(hashes_[i]);
      slots_[i] = kNoSlot;
      if (entry != nullptr) {
        prefetch_line(entry);
        prefetch_line_at(reinterpret_cast<const char*>(entry), sizeof(Entry) - 1);
        return;
      }
      if (table_ == nullptr) return;
    }
    const int64_t slot = table_->candidate(table_hashes_[i]);
    slots_[i] = slot < table_->count() ? slot : kAskAll;
    if (slots_[i] >= 0) table_->prefetch_place(slot);
  }
  // Asks for the key.
  template <bool kHasIndex>
  void approach(int64_t i) const {
    if (kHasIndex && entries_[i] != nullptr) return prefetch_line(entries_[i]->text.data());
    if (slots_[i] >= 0) table_->prefetch_key(slots_[i]);
  }
  template <bool kHasIndex>
  int64_t finish(const KeyView& key, int64_t i) const {
    if (kHasIndex && entries_[i] != nullptr) {
      if (entries_[i]->key() == key) return entries_[i]->slot.load();
    } else {
      const int64_t slot = slots_[i];
      if (slot == kNoSlot || (slot >= 0 && table_->holds(slot, key))) return slot;
    }
    return map_.find(key);
  }

  const SlotMap& map_;
  const Index* const index_;
  const KeyTable* const table_;  // null: has no keys of the type
  const KeyType type_;
  uint64_t* const table_hashes_;
  uint64_t hashes_[kChunk], other_hashes_[kChunk];
  const Entry* entries_[kChunk];
  int64_t slots_[kChunk];
};

void SlotMap::find_many(const KeyView* keys, int64_t count, int64_t* slots) const {
  constexpr int64_t kFew = 4;
  if (count < kFew || (table_ != nullptr && table_->is_rebuilt())) {
    for (int64_t i = 0; i < count; ++i) slots[i] = find(keys[i]);
    return;
  }
  const KeyType type = key_type_.load(std::memory_order_relaxed);
  if (table_ != nullptr && type == table_->key_type()) table_->request_pages(keys, count);
  Pipeline(*this, published_index_.load(), type).run(keys, count, slots);
}

uint64_t SlotMap::Index::insert(Entry& entry, uint64_t key_hash) {
  uint64_t steps = 0;
  while (at(key_hash + steps).entry.load(std::memory_order_relaxed) != nullptr) ++steps;
  Bucket& bucket = buckets[(key_hash + steps) & (count - 1)];
  bucket.hash = key_hash;
  bucket.entry.store(&entry, std::memory_order_release);
  return steps;
}

SlotMap::Entry& SlotMap::entry(const LockHeld& lock, const KeyView& key, Epochs& epochs) {
  reclaim(epochs);
  if (index_ == nullptr || 2 * (entries_.size() + 1) > index_->count) reserve(lock, 1, epochs);
  uint64_t hash = key.hash(index_->hash);
  if (Entry* found = index_->find(key, hash)) return *found;
  const bool may_be_in_table = table_ != nullptr && key.type == table_->key_type();
  const int64_t slot = may_be_in_table ? table_->find(key) : kNoSlot;
  auto made = std::make_unique<Entry>();
  made->text = key.text;
  made->number = key.number;
  made->slot.store(slot);
  made->order = 0;
  made->type = key.type;
  made->in_table = slot != kNoSlot;
  entries_.push_back(std::move(made));
  num_dead_ += slot == kNoSlot;
  if (index_->insert(*entries_.back(), hash) > kMaxSteps) {
    // The one who chose the keys knows the seed, as who made the file does.
    rebuild(lock, epochs, KeyHash::random(), Dead::keep);
  }
  return *entries_.back();
}

void SlotMap::reserve(const LockHeld& lock, uint64_t count, Epochs& epochs) {
  if (index_ != nullptr && 2 * (entries_.size() + count) <= index_->count) return;
  rebuild(lock, epochs, index_ == nullptr ? hash_beside(table_.get()) : index_->hash, Dead::drop,
          count);
}

// Makes an index that has room for so many more entries, perhaps without those that are dead.
void SlotMap::rebuild(const LockHeld&, Epochs& epochs, const KeyHash& hash, Dead what_is_dead,
                      uint64_t room) {
  const bool keeps_dead = what_is_dead == Dead::keep;
  const auto is_alive = [&](const Entry& entry) { return keeps_dead || !entry.is_dead(); };
  const uint64_t dead = keeps_dead ? 0 : num_dead_;
  const uint64_t alive = entries_.size() - dead;
  uint64_t count = kLeastBuckets;
  while (count < 4 * alive || count < 2 * (alive + room)) count *= 2;
  auto index = std::make_unique<Index>(count, hash);
  std::list<Retired> old(1);
  Entries entries;
  entries.reserve(alive + room);
  old.front().entries.reserve(dead);
  // Nothing fails from here on.
  for (uint64_t i = 0; index_ != nullptr && i < index_->count; ++i) {
    Entry* const entry = index_->buckets[i].entry.load(std::memory_order_relaxed);
    if (entry == nullptr || !is_alive(*entry)) continue;
    const bool same_hash = hash == index_->hash;
    index->insert(*entry, same_hash ? index_->buckets[i].hash : entry->key().hash(hash));
  }
  for (auto& entry : entries_) {
    Entries& to = is_alive(*entry) ? entries : old.front().entries;
    to.push_back(std::move(entry));
  }
  entries_ = std::move(entries);
  num_dead_ -= dead;
  published_index_.store(index.get());
  old.front().stamp = epochs.stamp();
  old.front().index = std::move(index_);
  index_ = std::move(index);
  retired_.splice(retired_.end(), old);
  reclaim(epochs);
}

void SlotMap::reclaim(Epochs& epochs) {
  while (!retired_.empty() && epochs.passed(retired_.front().stamp)) retired_.pop_front();
}

void SlotMap::tidy(const LockHeld& lock, Epochs& epochs) noexcept {
  reclaim(epochs);
  if (num_dead_ <= kLeastBuckets || 2 * num_dead_ <= entries_.size()) return;
  try {
    rebuild(lock, epochs, index_->hash, Dead::drop);
  } catch (const std::bad_alloc&) {  // later, then
  }
}

void SlotMap::put(const Change&, Entry& entry, int64_t slot) {
  num_dead_ -= entry.is_dead() ? 1 : 0;
  entry.order = ++orders_;
  key_type_.store(entry.type);
  size_ += 1;
  entry.slot.store(slot);
}

void SlotMap::remove(const Change&, Entry& entry) {
  entry.slot.store(kNoSlot);
  size_ -= 1;
  num_dead_ += entry.is_dead() ? 1 : 0;
}

std::vector<const SlotMap::Entry*> SlotMap::entries(const LockHeld&) const {
  std::vector<const Entry*> found;
  found.reserve(entries_.size());
  for (const auto& entry : entries_) found.push_back(entry.get());
  const auto is_before = [](const Entry* a, const Entry* b) { return a->order < b->order; };
  std::sort(found.begin(), found.end(), is_before);
  return found;
}

uint64_t SlotMap::longest_search(const LockHeld&) const {
  uint64_t most = 0;
  for (uint64_t i = 0; index_ != nullptr && i < index_->count; ++i) {
    if (index_->buckets[i].entry.load() == nullptr) continue;
    most = std::max(most, (i - index_->buckets[i].hash) & (index_->count - 1));
  }
  return most;
}

}  // namespace mlpbank
