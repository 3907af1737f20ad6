// Follower: takes over in a bank what a folder tells of its models.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "bank/bank.h"
#include "bank/head.h"
#include "fork_lock.h"

namespace mlpbank {

// A mapped file of blocks. `owner` keeps it mapped.
struct Segment {
  const Bytes* data;
  int64_t bytes;
  std::shared_ptr<const void> owner;
};
using Segments = std::map<int64_t, Segment>;  // by number

class Follower {
 public:
  // The first and the last of changes that this process has written itself. It does not check their
  // blocks.
  using Own = std::pair<uint64_t, uint64_t>;
  static constexpr Own kNoOwn = {1, 0};

  Follower(std::shared_ptr<Head> head, std::shared_ptr<Bank> bank);

  const std::shared_ptr<Bank>& bank() const { return bank_; }

  struct Caught {
    bool up;  // false: the index has to be read, or a segment to be added
    std::optional<int64_t> unknown_segment = std::nullopt;
  };
  // Takes over all changes that the head tells of, where all are among its recent ones, their
  // segments are known, and nothing is wrong with them.
  Caught catch_up(Own own);
  // Adds a segment, unless there is one of that number.
  void add_segment(int64_t number, const Segment& segment);

  // Points changes into the segments: known ones, or those of `more`. Throws std::invalid_argument
  // where one leads out of them.
  void find_blocks(std::vector<Bank::Followed>& changes, const Segments& more) const;
  // The first of these changes whose block is not what was written. Of several changes of one block
  // the last counts. Adds the numbers of those that it has read to `checked`, if that is given.
  std::optional<std::size_t> first_damaged(const std::vector<Bank::Followed>& changes, Own own,
                                           std::vector<uint64_t>* checked = nullptr) const;
  // As Bank::follow, which keeps the segments. False: the bank is no longer at change `after`.
  bool follow(const std::vector<Bank::Followed>& changes, uint64_t after, uint64_t sequence,
              Segments new_segments);
  // Numbers of segments that blocks may lie in.
  std::set<int64_t> segments() const;

 private:
  const Bytes* block(const Bank::Followed& change, const Segment* segment) const;

  const std::shared_ptr<Head> head_;
  const std::shared_ptr<Bank> bank_;
  const int64_t block_models_, block_bytes_;
  mutable ForkLock lock_;  // one thread takes over, others wait for it
  // Guarded by lock_.
  Segments segments_;
  std::list<std::shared_ptr<const void>> added_memory_;  // of segments; the bank gets it next
};

}  // namespace mlpbank
