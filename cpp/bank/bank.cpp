#include "bank/bank.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "errors.h"

namespace mlpbank {
namespace {

void forget_readers(void* epochs) { static_cast<Epochs*>(epochs)->forget_readers(); }

}  // namespace

ModelRecord RecordColumns::get(int64_t slot) const {
  ModelRecord record;
  if (slot >= count) return record;
  record.generation = generations[slot];
  record.loaded_at = loaded_at[slot];
  const uint64_t begin = version_offsets[slot], end = version_offsets[slot + 1];
  if (begin <= end && end <= num_version_bytes) record.version.assign(version_bytes + begin, end - begin);
  return record;
}

ReuseCounts::~ReuseCounts() {
  for (auto& chunk : chunks_) delete[] chunk.load();
}

int ReuseCounts::chunk_of(int64_t slot, int64_t& offset) {
  int chunk = 0;
  offset = slot;
  for (int64_t size = kFirst; offset >= size; size *= 2, ++chunk) offset -= size;
  return chunk;
}

uint32_t ReuseCounts::of(int64_t slot) const {
  int64_t offset;
  const auto* chunk = chunks_[chunk_of(slot, offset)].load(std::memory_order_acquire);
  return chunk == nullptr ? 0 : chunk[offset].load();
}

void ReuseCounts::reserve(int64_t slot) {
  int64_t offset;
  const int chunk = chunk_of(slot, offset);
  if (chunks_[chunk].load() != nullptr) return;
  chunks_[chunk].store(new std::atomic<uint32_t>[static_cast<std::size_t>(kFirst << chunk)](),
                       std::memory_order_release);
}

uint32_t ReuseCounts::increment(int64_t slot) {
  int64_t offset;
  return ++chunks_[chunk_of(slot, offset)].load()[offset];
}

Bank::Bank(std::shared_ptr<BatchedWeights> weights, std::shared_ptr<const KeyTable> table, RecordColumns records,
           uint32_t most_reuses)
    : weights_(std::move(weights)),
      base_(std::move(records)),
      most_reuses_(most_reuses),
      lock_(ForkLock::bank, forget_readers, &epochs_),
      keys_(std::move(table)),
      used_(keys_.size()) {}

int64_t Bank::find_id(const KeyView& key) const {
  for (int64_t slot = keys_.find(key);;) {
    if (slot == kNoSlot) return kNoSlot;
    const int64_t id = slot | static_cast<int64_t>(counts_.of(slot)) << kSlotBits;
    // Its model may have been removed, and counted, in between. No other model can have got the slot.
    const int64_t again = keys_.find(key);
    if (again == slot) return id;
    slot = again;
  }
}

int64_t Bank::slot_of(int64_t id, bool& stale) const {
  if (id < 0) return id;
  const int64_t slot = id & ((int64_t{1} << kSlotBits) - 1);
  stale = static_cast<int64_t>(counts_.of(slot)) != id >> kSlotBits;
  return stale ? kNoSlot : slot;
}

// Slots are added by the quarter, so that adding many models one by one moves few tables.
int64_t Bank::grow_by(int64_t slot) const { return std::min<int64_t>(std::max<int64_t>(16, slot / 4), 4096); }

ModelRecord Bank::record_of(int64_t slot) const {
  const auto found = records_.find(slot);
  return found == records_.end() ? base_.get(slot) : found->second;
}

void Bank::add(const KeyView& key, const std::string& version, double loaded_at, const std::vector<LayerView>& views) {
  ModelRecord record{version, 0, loaded_at};
  const std::lock_guard lock(lock_);
  if (keys_.kind() != KeyKind::none && keys_.kind() != key.kind) throw KeyKindError("key: of another kind");
  const int64_t known = keys_.find(key);
  SlotMap::Entry* const entry = known == kNoSlot ? &keys_.entry(key, epochs_) : nullptr;
  const bool reuse = known == kNoSlot && !free_.empty() && epochs_.passed(free_.front().stamp);
  const int64_t slot = known != kNoSlot ? known : reuse ? free_.front().slot : used_;
  record.generation = known == kNoSlot ? 1 : record_of(slot).generation;
  if (known != kNoSlot && record.generation < std::numeric_limits<int64_t>::max()) ++record.generation;
  if (slot >= weights_->num_models()) weights_->grow(grow_by(slot));
  const auto [place, made] = records_.try_emplace(slot);
  try {
    weights_->load(slot, 1, views, 1);
  } catch (...) {
    if (made) records_.erase(place);
    throw;
  }
  // Nothing fails from here on.
  place->second = std::move(record);
  if (known != kNoSlot) return;
  if (reuse) {
    free_.pop_front();
  } else {
    ++used_;
  }
  keys_.put(*entry, slot);
}

bool Bank::remove(const KeyView& key) {
  const std::lock_guard lock(lock_);
  const int64_t slot = keys_.find(key);
  if (slot == kNoSlot) return false;
  SlotMap::Entry& entry = keys_.entry(key, epochs_);
  counts_.reserve(slot);
  std::list<FreeSlot> freed(1);
  // The key goes before the weights: whoever does not find these looks for the key again.
  weights_->unload(slot, [&]() noexcept {
    keys_.remove(entry);
    records_.erase(slot);
    freed.front() = {slot, epochs_.stamp()};
    if (counts_.increment(slot) < most_reuses_) free_.splice(free_.end(), freed);
  });
  return true;
}

void Bank::set_kind(KeyKind kind) {
  const std::lock_guard lock(lock_);
  if (keys_.kind() != KeyKind::none && keys_.kind() != kind) throw KeyKindError("key: of another kind");
  keys_.set_kind(kind);
}

bool Bank::info(const KeyView& key, ModelRecord& record) const {
  const std::lock_guard lock(lock_);
  const int64_t slot = keys_.find(key);
  if (slot != kNoSlot) record = record_of(slot);
  return slot != kNoSlot;
}

Bank::Frozen Bank::freeze(bool with_weights) const {
  const std::lock_guard lock(lock_);
  Frozen frozen;
  frozen.kind = keys_.kind();
  for (const SlotMap::Entry* entry : keys_.entries()) {
    const int64_t slot = entry->slot.load();
    if (entry->in_table) {
      frozen.moved.push_back({entry->text, entry->number, slot});
    } else if (slot != kNoSlot) {
      frozen.added.push_back({entry->text, entry->number, slot});
    }
  }
  if (!with_weights) return frozen;
  frozen.records.assign(records_.begin(), records_.end());
  frozen.weights = std::make_shared<BatchedWeights::Snapshot>(weights_);
  return frozen;
}

}  // namespace mlpbank
