// SlotMap: look-ups, and an index that is rebuilt as entries are added and removed.
#include "bank/slot_map.h"

#include <algorithm>
#include <new>
#include <utility>

namespace mlpbank {
namespace {

constexpr uint64_t kLeastBuckets = 16;  // of an index

// Files of format version 1 have no seed, so strangers know where their keys fall. Entries of such
// a bank have a hash of their own.
KeyHash hash_beside(const KeyTable* table) {
  return table != nullptr && table->hash().seeded ? table->hash() : KeyHash::random();
}

}  // namespace

SlotMap::SlotMap(std::shared_ptr<const KeyTable> table)
    : table_(std::move(table)),
      key_type_(table_ == nullptr ? KeyType::none : table_->key_type()),
      size_(table_ == nullptr ? 0 : table_->count()) {}

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

void SlotMap::Index::find_many(KeyBatch& batch) const {
  Entry* found[KeyBatch::kSize];
  uint64_t places[KeyBatch::kSize];
  const auto walk = [&](int i) {
    for (;; ++places[i]) {
      const Bucket& bucket = at(places[i]);
      found[i] = bucket.entry.load(std::memory_order_acquire);
      if (found[i] == nullptr || bucket.hash == batch.hashes[i]) return;
    }
  };
  for (int n = 0; n < batch.num_open; ++n) {
    const int i = batch.open[n];
    places[i] = batch.hashes[i];
    walk(i);
    prefetch_line(found[i]);
    prefetch_line(reinterpret_cast<const char*>(found[i]), sizeof(Entry) - 1);
  }
  for (int n = 0; n < batch.num_open; ++n) {
    const int i = batch.open[n];
    if (found[i] != nullptr) prefetch_line(found[i]->text.data());
  }
  batch.keep_open([&](int i) {
    while (found[i] != nullptr && !(found[i]->key() == batch.keys[i])) {  // all but never
      ++places[i];
      walk(i);
    }
    if (found[i] != nullptr) batch.slots[i] = found[i]->slot.load();
    return found[i] == nullptr;
  });
}

void SlotMap::find_many(const KeyView* keys, int64_t count, int64_t* slots) const {
  const Index* const index = published_index_.load();
  const KeyType type = key_type_.load(std::memory_order_relaxed);
  const bool has_table = table_ != nullptr && type == table_->key_type();
  const bool one_hash = index == nullptr || shares_hash(*index);
  for (int64_t begin = 0; begin < count; begin += KeyBatch::kSize) {
    KeyBatch batch(keys + begin, std::min<int64_t>(KeyBatch::kSize, count - begin), type,
                   slots + begin);
    if (index != nullptr) {
      batch.hash(index->hash);
      for (int n = 0; n < batch.num_open; ++n) {
        const uint64_t hash = batch.hashes[batch.open[n]];
        prefetch_line(&index->at(hash));
        if (has_table && one_hash) table_->prefetch(hash);
      }
      index->find_many(batch);
    }
    if (!has_table) continue;
    if (index == nullptr || !one_hash) {
      batch.hash(table_->hash());
      for (int n = 0; n < batch.num_open; ++n) table_->prefetch(batch.hashes[batch.open[n]]);
    }
    table_->find_many(batch);
  }
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
  if (index_ == nullptr || 2 * (entries_.size() + 1) > index_->count) {
    rebuild(lock, epochs, index_ == nullptr ? hash_beside(table_.get()) : index_->hash);
  }
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
    rebuild(lock, epochs, KeyHash::random(), entries_.back().get());
  }
  return *entries_.back();
}

// Makes an index that fits, without the entries that are dead.
void SlotMap::rebuild(const LockHeld&, Epochs& epochs, const KeyHash& hash, const Entry* kept) {
  const auto is_alive = [&](const Entry& entry) { return !entry.is_dead() || &entry == kept; };
  const bool keeps_dead = kept != nullptr && kept->is_dead();
  const uint64_t dead = num_dead_ - (keeps_dead ? 1 : 0);
  const uint64_t alive = entries_.size() - dead;
  uint64_t count = kLeastBuckets;
  while (count < 4 * (alive + 1)) count *= 2;
  auto index = std::make_unique<Index>(count, hash);
  std::list<Retired> old(1);
  Entries entries;
  entries.reserve(alive + 1);
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
  num_dead_ = keeps_dead ? 1 : 0;
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
    rebuild(lock, epochs, index_->hash);
  } catch (const std::bad_alloc&) {  // later, then
  }
}

void SlotMap::put(const LockHeld&, Entry& entry, int64_t slot) {
  num_dead_ -= entry.is_dead() ? 1 : 0;
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

}  // namespace mlpbank
