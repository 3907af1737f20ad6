#include "bank/slot_map.h"

#include <algorithm>

namespace mlpbank {
namespace {

constexpr uint64_t kSmallest = 16;  // places of an index

bool equal(const KeyView& a, const KeyView& b) {
  return a.kind == b.kind && a.text == b.text && a.number == b.number;
}

}  // namespace

SlotMap::SlotMap(std::shared_ptr<const KeyTable> table)
    : table_(std::move(table)),
      kind_(table_ == nullptr ? KeyKind::none : table_->kind()),
      size_(table_ == nullptr ? 0 : table_->count()) {}

SlotMap::~SlotMap() = default;

SlotMap::Entry* SlotMap::look(const KeyView& key, uint64_t hash) const {
  const Index* index = published_.load();
  if (index == nullptr) return nullptr;
  for (uint64_t i = hash;; ++i) {  // there is always an empty place
    Entry* entry = index->places[i & (index->count - 1)].load(std::memory_order_acquire);
    if (entry == nullptr || (entry->hash == hash && equal(entry->key(), key))) return entry;
  }
}

int64_t SlotMap::find(const KeyView& key) const {
  if (key.kind != kind_.load(std::memory_order_relaxed)) return kNoSlot;
  if (published_.load() != nullptr) {
    const uint64_t hash = key.kind == KeyKind::text ? hash_(key.text) : hash_(key.number);
    if (const Entry* entry = look(key, hash)) return entry->slot.load();
  }
  return table_ == nullptr ? kNoSlot : table_->find(key);
}

void SlotMap::insert(Index& index, Entry& entry) {
  uint64_t i = entry.hash;
  while (index.places[i & (index.count - 1)].load(std::memory_order_relaxed) != nullptr) ++i;
  index.places[i & (index.count - 1)].store(&entry, std::memory_order_release);
}

SlotMap::Entry& SlotMap::entry(const KeyView& key, Epochs& epochs) {
  const uint64_t hash = key.kind == KeyKind::text ? hash_(key.text) : hash_(key.number);
  if (Entry* found = look(key, hash)) return *found;
  if (index_ == nullptr || 2 * (entries_.size() + 1) > index_->count) rebuild(epochs);
  const int64_t slot = table_ == nullptr || key.kind != table_->kind() ? kNoSlot : table_->find(key);
  std::list<Entry> made;
  made.emplace_back();
  Entry& entry = made.back();
  entry.kind = key.kind;
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

// A larger index, without the entries of removed keys that are not in the table: nobody needs them.
void SlotMap::rebuild(Epochs& epochs) {
  while (!retired_.empty() && epochs.passed(retired_.front().stamp)) retired_.pop_front();
  const auto is_dead = [](const Entry& entry) { return !entry.in_table && entry.slot.load() == kNoSlot; };
  const auto dead = static_cast<uint64_t>(std::count_if(entries_.begin(), entries_.end(), is_dead));
  uint64_t count = kSmallest;
  while (count < 4 * (entries_.size() - dead + 1)) count *= 2;
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
  published_.store(index.get());
  old.front().stamp = epochs.stamp();
  old.front().index = std::move(index_);
  index_ = std::move(index);
  retired_.splice(retired_.end(), old);
}

void SlotMap::put(Entry& entry, int64_t slot) {
  ++moment_;
  entry.order = ++orders_;
  kind_.store(entry.kind);
  size_ += 1;
  entry.slot.store(slot);
  ++moment_;
}

void SlotMap::remove(Entry& entry) {
  ++moment_;
  entry.slot.store(kNoSlot);
  size_ -= 1;
  ++moment_;
}

std::vector<const SlotMap::Entry*> SlotMap::entries() const {
  std::vector<const Entry*> found;
  found.reserve(entries_.size());
  for (const Entry& entry : entries_) found.push_back(&entry);
  std::sort(found.begin(), found.end(), [](const Entry* a, const Entry* b) { return a->order < b->order; });
  return found;
}

}  // namespace mlpbank
