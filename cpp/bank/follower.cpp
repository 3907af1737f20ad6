// Follower: reading the recent changes, and checking and making changes.
#include "bank/follower.h"

#include <list>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "crc32.h"

namespace mlpbank {

Follower::Follower(std::shared_ptr<Head> head, std::shared_ptr<Bank> bank)
    : head_(std::move(head)),
      bank_(std::move(bank)),
      block_models_(bank_->weights()->layout().block_models()),
      block_bytes_(bank_->weights()->layout().block_bytes()),
      lock_(ForkLock::follower, nullptr, nullptr) {}

Follower::Caught Follower::catch_up(Own own) {
  const LockHeld lock(lock_);
  const uint64_t after = bank_->sequence(), until = head_->sequence();
  if (until <= after) return {true};
  if (until - after > RecentChanges::kEntries) return {false};
  const KeyType type = bank_->keys().key_type();
  if (type == KeyType::none) return {false};  // the index tells it
  std::vector<Bank::Followed> changes(until - after);
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Bank::Followed& change = changes[i];
    if (!head_->recent().load(after + 1 + i, change)) return {false};
    if (is_tuple(change.type) && is_tuple(type)) change.type = type;  // with its parts
  }
  try {
    for (Bank::Followed& change : changes) {
      if (change.segment < 0) continue;
      const auto found = segments_.find(change.segment);
      if (found == segments_.end()) return {false, change.segment};
      change.block = block(change, &found->second);
    }
    std::vector<uint64_t> checked;
    if (first_damaged(changes, own, &checked)) return {false};
    for (const uint64_t sequence : checked) head_->recent().tell_checked(sequence);
    if (!bank_->follow(changes, after, until, added_memory_)) return {false};
    added_memory_.clear();
    return {true};
  } catch (const std::invalid_argument&) {  // what the index has counts, and is told by it
    return {false};
  }
}

void Follower::add_segment(int64_t number, const Segment& segment) {
  const LockHeld lock(lock_);
  const auto [place, is_new] = segments_.try_emplace(number, segment);
  if (is_new) added_memory_.push_back(place->second.owner);
}

void Follower::find_blocks(std::vector<Bank::Followed>& changes, const Segments& more) const {
  const LockHeld lock(lock_);
  for (Bank::Followed& change : changes) {
    if (change.segment < 0) continue;
    const auto known = segments_.find(change.segment), added = more.find(change.segment);
    change.block = block(change, known != segments_.end() ? &known->second
                                 : added != more.end()    ? &added->second
                                                          : nullptr);
  }
}

const Bytes* Follower::block(const Bank::Followed& change, const Segment* segment) const {
  if (segment == nullptr) throw std::invalid_argument("segment: not there");
  if (change.offset < 0 || change.offset % kBlockAlignment != 0 ||
      change.offset > segment->bytes - block_bytes_) {
    throw std::invalid_argument("offset: outside of its segment");
  }
  return segment->data + change.offset;
}

std::optional<std::size_t> Follower::first_damaged(const std::vector<Bank::Followed>& changes,
                                                   Own own, std::vector<uint64_t>* checked) const {
  std::unordered_map<int64_t, std::size_t> last;
  last.reserve(changes.size());
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const Bank::Followed& change = changes[i];
    if (change.block != nullptr) last[change.slot / block_models_] = i;
  }
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const Bank::Followed& change = changes[i];
    if (change.block == nullptr || last[change.slot / block_models_] != i) continue;
    if (change.is_checked || (own.first <= change.sequence && change.sequence <= own.second))
      continue;
    if (crc32(change.block, static_cast<std::size_t>(block_bytes_)) != change.checksum) return i;
    if (checked != nullptr) checked->push_back(change.sequence);
  }
  return std::nullopt;
}

bool Follower::follow(const std::vector<Bank::Followed>& changes, uint64_t after, uint64_t sequence,
                      Segments new_segments) {
  const LockHeld lock(lock_);
  std::list<std::shared_ptr<const void>> memory = added_memory_;
  for (const auto& [number, segment] : new_segments) memory.push_back(segment.owner);
  if (!bank_->follow(changes, after, sequence, std::move(memory))) return false;
  added_memory_.clear();
  segments_.merge(new_segments);
  return true;
}

std::set<int64_t> Follower::segments() const {
  const LockHeld lock(lock_);
  std::set<int64_t> numbers;
  for (const auto& [number, segment] : segments_) numbers.insert(number);
  return numbers;
}

}  // namespace mlpbank
