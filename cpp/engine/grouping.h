// Grouping: sorts a call's entries by the slot they go to.
#pragma once

#include <cstdint>
#include <vector>

namespace mlpbank {

// Entries whose models lie in one block: positions [begin, end) of the sorted entries.
struct Group {
  int64_t block, begin, end;
};

// What a call asks of its entries.
struct GroupingWish {
  int64_t num_models;
  int64_t block_models;
  int64_t max_entries;  // of a group; a block with more has several groups
  int64_t entry_bytes;  // of its rows and results
  int threads;
};

class Grouping {
 public:
  // Takes time in proportion to `entries`; many are shared out to the threads. Throws
  // std::out_of_range for the first slot that is not in [0, num_models), and std::overflow_error
  // from 2^32 entries on. Slots are copied as they are checked: another thread of the caller
  // may write to the array meanwhile.
  void group(const int64_t* slots, int64_t entries, const GroupingWish& wish);

  // The sorted entries: which one stands at position i, and its slot. Entries of one slot keep
  // their order. Slots ascend, from one end to the other or, where entries are short and models
  // few, in each of several stretches.
  int64_t entry(int64_t i) const { return ascending_ ? i : static_cast<int64_t>(key(i)) & kEntry; }
  int64_t slot(int64_t i) const {
    return ascending_ ? static_cast<int64_t>(slots_[static_cast<std::size_t>(i)])
                      : static_cast<int64_t>(key(i) >> 32);
  }
  // The end of the entries from position i on that have its slot, `end` at most.
  int64_t end_of_slot(int64_t i, int64_t end) const { return end_of_block(i, end, 0, 0); }

  bool in_stretches() const { return stretch_ > 0; }

  // In the order of positions. Where there are stretches, a block has groups in each.
  const std::vector<Group>& groups() const { return groups_; }

 private:
  static constexpr int64_t kEntry = 0xffffffff;

  uint64_t key(int64_t i) const { return keys_[static_cast<std::size_t>(i)]; }
  int64_t end_of_block(int64_t i, int64_t end, int shift, int64_t guess) const;
  bool check(const int64_t* slots, int64_t entries, const GroupingWish& wish);
  void sort(const int64_t* slots, int64_t entries, const GroupingWish& wish);
  void sort_stretches(const int64_t* slots, int64_t entries, const GroupingWish& wish);
  void add_groups(int64_t begin, int64_t end, const GroupingWish& wish,
                  std::vector<Group>& groups) const;

  bool ascending_ = true;  // slots ascend as they are, and there are no keys
  int64_t stretch_ = 0;    // entries of a stretch; 0: there are none
  // These three only ever grow.
  std::vector<uint32_t> slots_;   // by entry
  std::vector<uint64_t> keys_;    // slot << 32 | entry
  std::vector<uint64_t> buffer_;  // what a pass of sort() writes to
  std::vector<uint32_t> counts_;  // of each digit in each part, then the places of its entries
  std::vector<Group> groups_;
};

}  // namespace mlpbank
