// Grouping: sorts a call's entries by the slot they go to.
#pragma once

#include <cstdint>
#include <vector>

namespace mlpbank {

// Entries whose models lie in one block: positions [begin, end) of the sorted entries.
struct Group {
  int64_t block, begin, end;
};

class Grouping {
 public:
  // Takes time in proportion to `entries`. A group has at most `max_entries`; a block with more has
  // several groups. Throws std::out_of_range for the first slot that is not in [0, num_models), and
  // std::overflow_error from 2^32 entries on.
  void group(const int64_t* slots, int64_t entries, int64_t num_models, int64_t block_models,
             int64_t max_entries);

  // The sorted entries: which one stands at position i, and its slot. Entries of one slot keep
  // their order.
  int64_t entry(int64_t i) const {
    return static_cast<int64_t>(keys_[static_cast<std::size_t>(i)] & 0xffffffff);
  }
  int64_t slot(int64_t i) const {
    return static_cast<int64_t>(keys_[static_cast<std::size_t>(i)] >> 32);
  }
  const std::vector<Group>& groups() const { return groups_; }

 private:
  void sort(int64_t num_models);

  std::vector<uint64_t> keys_;    // slot << 32 | entry
  std::vector<uint64_t> buffer_;  // what sort() writes to
  std::vector<Group> groups_;
};

}  // namespace mlpbank
