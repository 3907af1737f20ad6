// Bank: its look-ups by handle, and its changes.
#include "bank/bank.h"

#include <limits>
#include <utility>

#include "errors.h"

namespace mlpbank {

Bank::Bank(std::shared_ptr<BatchedWeights> weights, std::shared_ptr<const KeyTable> table,
           const ModelColumns& columns, uint32_t most_reuses)
    : weights_(std::move(weights)),
      columns_(columns),
      most_reuses_(most_reuses),
      lock_(ForkLock::bank, forget_readers, &epochs_),
      keys_(std::move(table), static_cast<int64_t>(columns.vacant.size())),
      num_used_slots_(columns.count),
      vacant_(columns.vacant.begin(), columns.vacant.end()) {
  for (const int64_t slot : columns.vacant) free_slots_.push_back({slot, 0});
  for (std::size_t i = 0; i < columns.reuse_counts.size(); ++i) {
    if (columns.reuse_counts[i] == 0) continue;
    reuse_counts_.reserve(static_cast<int64_t>(i));
    reuse_counts_.set(static_cast<int64_t>(i), columns.reuse_counts[i]);
  }
}

int64_t Bank::find_handle(const KeyView& key) const {
  for (int64_t slot = keys_.find(key);;) {
    if (slot == kNoSlot) return kNoSlot;
    const int64_t handle = handle_of(slot);
    // The model may have been removed, and counted, in between. Inside the caller's guard no other
    // model can have got its slot.
    const int64_t again = keys_.find(key);
    if (again == slot) return handle;
    slot = again;
  }
}

void Bank::find_handles(const KeyView* keys, int64_t count, int64_t* handles) const {
  keys_.find_many(keys, count, handles);
  if (!reuse_counts_.any()) return;  // handles are slots
  for (int64_t i = 0; i < count; ++i)
    if (handles[i] != kNoSlot) handles[i] = handle_of(handles[i]);
}

int64_t Bank::slot_of(int64_t handle, bool& stale) const {
  if (handle < 0) return handle;
  const int64_t slot = handle & ((int64_t{1} << kSlotBits) - 1);
  stale = static_cast<int64_t>(reuse_counts_.of(slot)) != handle >> kSlotBits;
  return stale ? kNoSlot : slot;
}

void Bank::check_key_type(const LockHeld&, KeyType type) const {
  if (keys_.key_type() != KeyType::none && keys_.key_type() != type) {
    throw KeyTypeError("key: of another kind");
  }
}

ModelRecord Bank::record_of(const LockHeld&, int64_t slot) const {
  const auto found = records_.find(slot);
  return found == records_.end() ? columns_.get(slot) : found->second;
}

void Bank::add(const KeyView& key, const std::string& version, double loaded_at,
               const std::vector<LayerView>& views) {
  ModelRecord record{version, 1, loaded_at};
  const LockHeld lock(lock_);
  check_key_type(lock, key.type);
  const int64_t known = keys_.find(key);
  const bool is_new = known == kNoSlot;
  SlotMap::Entry* const entry = is_new ? &keys_.entry(lock, key, epochs_) : nullptr;
  const bool reuse = is_new && !free_slots_.empty() && epochs_.passed(free_slots_.front().stamp);
  const int64_t slot = !is_new ? known : reuse ? free_slots_.front().slot : num_used_slots();
  if (!is_new) {
    const int64_t revision = record_of(lock, slot).revision;
    const bool is_last = revision == std::numeric_limits<int64_t>::max();
    record.revision = is_last ? revision : revision + 1;
  }
  if (slot >= weights_->num_models()) weights_->grow(growth(slot));
  const auto [record_at, made] = records_.try_emplace(slot);
  try {
    weights_->load(slot, 1, views, 1);
  } catch (...) {
    if (made) records_.erase(record_at);
    throw;
  }
  // Nothing fails from here on.
  ++sequence_;
  record_at->second = std::move(record);
  if (!is_new) return;
  if (reuse) {
    free_slots_.pop_front();
  } else {
    ++num_used_slots_;
  }
  keys_.put(SlotMap::Change(keys_), *entry, slot);
}

bool Bank::remove(const KeyView& key) {
  const LockHeld lock(lock_);
  const int64_t slot = keys_.find(key);
  if (slot == kNoSlot) return false;
  SlotMap::Entry& entry = keys_.entry(lock, key, epochs_);
  reuse_counts_.reserve(slot);
  free_slots_.push_back({slot, epochs_.stamp()});
  try {
    // The key goes before the weights: a call that does not find these looks the key up again.
    weights_->unload(slot, [&]() noexcept {
      keys_.remove(SlotMap::Change(keys_), entry);
      records_.erase(slot);
      free_slots_.back().stamp = epochs_.stamp();
      const bool may_be_reused = reuse_counts_.increment(slot) < most_reuses_;
      if (!may_be_reused) free_slots_.pop_back();
    });
  } catch (...) {
    free_slots_.pop_back();
    throw;
  }
  ++sequence_;
  keys_.tidy(lock, epochs_);
  return true;
}

void Bank::set_key_type(KeyType type) {
  const LockHeld lock(lock_);
  check_key_type(lock, type);
  keys_.set_key_type(lock, type);
}

bool Bank::info(const KeyView& key, ModelRecord& record) const {
  const LockHeld lock(lock_);
  const int64_t slot = keys_.find(key);
  if (slot != kNoSlot) record = record_of(lock, slot);
  return slot != kNoSlot;
}

Bank::Frozen Bank::freeze(bool with_weights) const {
  const LockHeld lock(lock_);
  Frozen frozen;
  frozen.key_type = keys_.key_type();
  frozen.sequence = sequence();
  for (const SlotMap::Entry* entry : keys_.entries(lock)) {
    const int64_t slot = entry->slot.load();
    if (entry->in_table) {
      frozen.moved.push_back({entry->text, entry->number, slot});
    } else if (slot != kNoSlot) {
      frozen.added.push_back({entry->text, entry->number, slot});
    }
  }
  if (!with_weights) return frozen;
  frozen.records.assign(records_.begin(), records_.end());
  frozen.reuse_counts.reserve(static_cast<std::size_t>(num_used_slots()));
  for (int64_t i = 0; i < num_used_slots(); ++i) frozen.reuse_counts.push_back(reuse_count(i));
  frozen.weights = std::make_shared<BatchedWeights::Snapshot>(weights_);
  return frozen;
}

}  // namespace mlpbank
