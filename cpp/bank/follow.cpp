// Bank: following what other processes have changed.
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include "bank/bank.h"
#include "errors.h"

namespace mlpbank {
namespace {

[[noreturn]] void refuse(const Bank::Followed& change, const std::string& what) {
  throw std::invalid_argument("slot " + std::to_string(change.slot) + ": " + what);
}

}  // namespace

// Making it does everything that may fail.
struct Bank::Plan {
  std::vector<SlotMap::Entry*> entries;  // of each change
  std::vector<BatchedWeights::Placed> blocks;
  std::unordered_map<int64_t, bool> has_model;       // of each slot, after the changes
  std::unordered_map<int64_t, ModelRecord> records;  // of those that have one
  std::set<int64_t> vacated;
  int64_t num_slots;
};

Bank::Plan Bank::plan(const LockHeld& lock, const std::vector<Followed>& changes) {
  Plan plan;
  plan.num_slots = num_used_slots();
  plan.entries.reserve(changes.size());
  plan.blocks.reserve(changes.size());
  keys_.reserve(lock, changes.size(), epochs_);
  const int64_t width = weights_->layout().block_models();
  std::unordered_map<const SlotMap::Entry*, int64_t> slots;  // of keys, after the changes so far
  slots.reserve(changes.size());
  plan.has_model.reserve(changes.size());
  plan.records.reserve(changes.size());
  KeyType type = keys_.key_type();
  for (const Followed& change : changes) {
    if (type != KeyType::none && change.type != type) throw KeyTypeError("key: of another kind");
    type = change.type;
    SlotMap::Entry& entry = keys_.entry(lock, change.key(), epochs_);
    const int64_t slot = change.slot;
    const int64_t before = slots.try_emplace(&entry, entry.slot.load()).first->second;
    const auto known = plan.has_model.find(slot);
    const bool was_vacant =
        known == plan.has_model.end() ? vacant_.count(slot) != 0 : !known->second;
    if (change.is_removal) {
      if (before != slot || slot == kNoSlot) refuse(change, "the key to remove has another one");
      plan.records.erase(slot);
    } else {
      if (before != kNoSlot && before != slot) refuse(change, "the key has another one");
      if (before == kNoSlot && slot != plan.num_slots && !was_vacant) {
        refuse(change, "another key has it, or slots before it were never used");
      }
      plan.num_slots += slot == plan.num_slots ? 1 : 0;
      plan.records[slot] = change.record;
    }
    if ((change.block == nullptr) != (change.is_removal && width == 1)) {
      refuse(change, "expected weights of a load, and none of a removal in the panel layout");
    }
    slots[&entry] = change.is_removal ? kNoSlot : slot;
    plan.has_model[slot] = !change.is_removal;
    plan.entries.push_back(&entry);
    plan.blocks.push_back({slot / width, change.block});
    reuse_counts_.reserve(slot);
  }
  for (const auto& [slot, has_model] : plan.has_model) {
    if (!has_model) plan.vacated.insert(slot);
  }
  records_.reserve(records_.size() + plan.records.size());
  if (plan.num_slots > weights_->num_models()) {
    weights_->extend(plan.num_slots - weights_->num_models() + growth(plan.num_slots));
  }
  return plan;
}

bool Bank::follow(const std::vector<Followed>& changes, uint64_t after, uint64_t sequence,
                  std::list<std::shared_ptr<const void>> memory) {
  const LockHeld lock(lock_);
  if (sequence_.load() != after) return false;
  if (sequence < after) throw std::invalid_argument("sequence: a bank never goes back");
  Plan planned = plan(lock, changes);
  // Nothing fails from here on.
  {
    const SlotMap::Change keys(keys_);
    const BatchedWeights::Change models(*weights_);
    for (std::size_t i = 0; i < changes.size(); ++i) {
      const Followed& change = changes[i];
      SlotMap::Entry& entry = *planned.entries[i];
      reuse_counts_.set(change.slot, change.reuse_count);
      if (change.is_removal) {
        keys_.remove(keys, entry);
      } else if (entry.slot.load() == kNoSlot) {
        keys_.put(keys, entry, change.slot);
      }
    }
    for (const auto& [slot, has_model] : planned.has_model) {
      records_.erase(slot);
      if (has_model) vacant_.erase(slot);
    }
    records_.merge(planned.records);
    vacant_.merge(planned.vacated);
    weights_->place(planned.blocks, memory);
    num_used_slots_.store(planned.num_slots);
    sequence_.store(sequence);
  }
  keys_.tidy(lock, epochs_);
  return true;
}

std::vector<int64_t> Bank::vacant_slots(int64_t count) const {
  const LockHeld lock(lock_);
  std::vector<int64_t> slots;
  for (const int64_t slot : vacant_) {
    if (static_cast<int64_t>(slots.size()) >= count) break;
    if (reuse_counts_.of(slot) < most_reuses_) slots.push_back(slot);
  }
  return slots;
}

}  // namespace mlpbank
