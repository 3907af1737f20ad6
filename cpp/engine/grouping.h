// Grouping: sorts a call's entries by the slot they go to.
#pragma once

#include <algorithm>
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
  int64_t entry(int64_t i) const {
    int64_t found = 0;
    with_entries(i, [&](auto entry_at) { found = entry_at(i); });
    return found;
  }
  int64_t slot(int64_t i) const {
    const auto at = static_cast<std::size_t>(i);
    if (ascending_) return static_cast<int64_t>(slots_[at]);
    return static_cast<int64_t>(in_stretches() ? short_keys_[at] >> stretch_bits_
                                               : keys_[at] >> 32);
  }
  // Calls visit(begin, end) for the positions of each slot of a group, in their order.
  template <class Visit>
  void for_each_slot(const Group& group, int64_t block_models, Visit visit) const {
    if (in_stretches()) {
      const uint32_t* const ends = ends_.data() + (group.begin >> stretch_bits_) * num_models_;
      int64_t begin = group.begin;
      for (int64_t slot = group.block * block_models; begin < group.end; ++slot) {
        const int64_t end = std::min<int64_t>(ends[slot], group.end);
        if (end <= begin) continue;
        visit(begin, end);
        begin = end;
      }
      return;
    }
    int64_t length = 0;  // of the slot before, which is the guess for the next
    for (int64_t begin = group.begin, end; begin < group.end; begin = end) {
      end = end_of_block(begin, group.end, 0, length);
      length = end - begin;
      visit(begin, end);
    }
  }
  // Calls visit(entry_at), where entry_at(i) is entry(i) for all positions of the stretch that
  // `position` lies in: a loop with it looks once at how the entries were sorted. Later positions
  // give entries that may not exist.
  template <class Visit>
  void with_entries(int64_t position, Visit visit) const {
    if (ascending_) return visit([](int64_t i) { return i; });
    if (in_stretches()) {
      const int64_t begin = position & -stretch();
      return visit([keys = short_keys_.data(), begin, mask = stretch() - 1](int64_t i) {
        return begin + (keys[i] & mask);
      });
    }
    visit([keys = keys_.data()](int64_t i) { return static_cast<int64_t>(keys[i] & 0xffffffff); });
  }

  bool ascending() const { return ascending_; }
  bool in_stretches() const { return stretch_bits_ > 0; }

  // In the order of positions. Where there are stretches, a block has groups in each.
  const std::vector<Group>& groups() const { return groups_; }

 private:
  // A stretch is sorted by itself, so that its rows and results fit the caches: L2, or L3 where
  // there are more models.
  static constexpr int kFewBits = 16, kManyBits = 18;

  int64_t stretch() const { return int64_t{1} << stretch_bits_; }  // its entries
  int64_t end_of_block(int64_t i, int64_t end, int shift, int64_t guess) const;
  static int stretch_bits(int64_t entries, const GroupingWish& wish);
  bool check(const int64_t* slots, int64_t entries, const GroupingWish& wish);
  void sort(const int64_t* slots, int64_t entries, const GroupingWish& wish);
  void sort_stretches(const int64_t* slots, int64_t entries, const GroupingWish& wish);
  void find_groups(int64_t entries, const GroupingWish& wish);

  bool ascending_ = true;  // slots ascend as they are, and there are no keys
  int stretch_bits_ = 0;   // of an entry's number in its stretch: one of these; 0: there are none
  // These only ever grow.
  std::vector<uint32_t> slots_;       // by entry
  std::vector<uint64_t> keys_;        // slot << 32 | entry
  std::vector<uint64_t> buffer_;      // what a pass of sort() writes to
  std::vector<uint16_t> few_slots_;   // those of a stretch, for each part
  std::vector<uint32_t> short_keys_;  // slot << stretch_bits_ | entry in its stretch
  std::vector<uint32_t> counts_;      // of each digit in each part, then the places of its entries
  int64_t num_models_ = 0;
  std::vector<uint32_t> ends_;  // of each slot's entries, for each stretch
  std::vector<Group> groups_;
};

}  // namespace mlpbank
