// SlotMap: look-ups, and an index that is rebuilt as entries are added.
#include "bank/slot_map.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace mlpbank {
namespace {

constexpr uint64_t kLeastBuckets = 16;  // of an index

}  // namespace

SlotMap::SlotMap(std::shared_ptr<const KeyTable> table)
    : table_(std::move(table)),
      key_type_(table_ == nullptr ? KeyType::none : table_->key_type()),
      size_(table_ == nullptr ? 0 : table_->count()) {}

SlotMap::~SlotMap() = default;

SlotMap::Entry* SlotMap::find_entry(const KeyView& key, uint64_t hash) const {
  const Index* index = published_index_.load();
  if (index == nullptr) return nullptr;
  for (uint64_t i = hash;; ++i) {  // there is always an empty bucket
    Entry* entry = index->buckets[i & (index->count - 1)].load(std::memory_order_acquire);
    if (entry == nullptr || (entry->hash == hash && entry->key() == key)) return entry;
  }
}

int64_t SlotMap::find(const KeyView& key) const {
  if (key.type != key_type_.load(std::memory_order_relaxed)) return kNoSlot;
  if (published_index_.load() != nullptr) {
    if (const Entry* entry = find_entry(key, key.hash(hash_))) return entry->slot.load();
  }
  return table_ == nullptr ? kNoSlot : table_->find(key);
}

void SlotMap::insert(Index& index, Entry& entry) {
  uint64_t i = entry.hash;
  while (index.buckets[i & (index.count - 1)].load(std::memory_order_relaxed) != nullptr) ++i;
  index.buckets[i & (index.count - 1)].store(&entry, std::memory_order_release);
}

SlotMap::Entry& SlotMap::entry(const LockHeld& lock, const KeyView& key, Epochs& epochs) {
  const uint64_t hash = key.hash(hash_);
  if (Entry* found = find_entry(key, hash)) return *found;
  if (index_ == nullptr || 2 * (entries_.size() + 1) > index_->count) rebuild(lock, epochs);
  const bool may_be_in_table = table_ != nullptr && key.type == table_->key_type();
  const int64_t slot = may_be_in_table ? table_->find(key) : kNoSlot;
  std::list<Entry> made(1);
  Entry& entry = made.front();
  entry.type = key.type;
  entry.text = key.text;
  entry.number = key.number;
  entry.hash = hash;
  entry.in_table = slot != kNoSlot;
  entry.order = 0;
  entry.slot = slot;
  entries_.splice(entries_.end(), made);
  insert(*index_, entry);
  return entry;
}

// Makes a larger index, without the entries of removed keys that are not in the table.
void SlotMap::rebuild(const LockHeld&, Epochs& epochs) {
  while (!retired_.empty() && epochs.passed(retired_.front().stamp)) retired_.pop_front();
  const auto is_dead = [](const Entry& entry) {
    return !entry.in_table && entry.slot.load() == kNoSlot;
  };
  const auto dead = std::count_if(entries_.begin(), entries_.end(), is_dead);
  const uint64_t alive = entries_.size() - static_cast<uint64_t>(dead);
  uint64_t count = kLeastBuckets;
  while (count < 4 * (alive + 1)) count *= 2;
  auto index = std::make_unique<Index>(count);
  std::list<Retired> old(1);
  // Nothing fails from here on.
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const auto next = std::next(entry);
    if (is_dead(*entry)) {
      old.front().entries.splice(old.front().entries.end(), entries_, entry);
    } else {
      insert(*index, *entry);
    }
    entry = next;
  }
  published_index_.store(index.get());
  old.front().stamp = epochs.stamp();
  old.front().index = std::move(index_);
  index_ = std::move(index);
  retired_.splice(retired_.end(), old);
}

void SlotMap::put(const LockHeld&, Entry& entry, int64_t slot) {
  ++moment_;
  entry.order = ++orders_;
  key_type_.store(entry.type);
  size_ += 1;
  entry.slot.store(slot);
  ++moment_;
}

void SlotMap::remove(const LockHeld&, Entry& entry) {
  ++moment_;
  entry.slot.store(kNoSlot);
  size_ -= 1;
  ++moment_;
}

std::vector<const SlotMap::Entry*> SlotMap::entries(const LockHeld&) const {
  std::vector<const Entry*> found;
  found.reserve(entries_.size());
  for (const Entry& entry : entries_) found.push_back(&entry);
  const auto is_before = [](const Entry* a, const Entry* b) { return a->order < b->order; };
  std::sort(found.begin(), found.end(), is_before);
  return found;
}

}  // namespace mlpbank
