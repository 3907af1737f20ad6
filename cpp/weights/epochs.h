// When memory that readers may still see can be used again.
//
// Readers enter and leave; each belongs to the epoch in which it entered. Memory retired in epoch e was unpublished
// before, so only readers of epochs up to e can see it. The epoch moves on from e to e + 1 only when no reader of epoch
// e - 1 is left, hence at epoch e + 2 none of them is. At any time there are readers of two epochs at most, and two
// counters suffice. Readers never wait for writers: entering is one increment, repeated only when the epoch moved on
// in that very moment.
#pragma once

#include <atomic>
#include <cstdint>

namespace mlpbank {

class Epochs {
 public:
  struct Token {
    int counter;
    uint32_t fork;  // of which process the reader is
  };

  // Returns the token that leave() takes.
  Token enter() {
    while (true) {
      const uint64_t epoch = epoch_.load();
      const int counter = static_cast<int>(epoch & 1);
      readers_[counter].count.fetch_add(1);
      if (epoch_.load() == epoch) return {counter, forks_};
      readers_[counter].count.fetch_sub(1);
    }
  }
  void leave(Token token) {
    if (is_known(token)) readers_[token.counter].count.fetch_sub(1, std::memory_order_release);
  }
  // False in a child for a reader that entered before the fork: what it saw may be gone.
  bool is_known(Token token) const { return token.fork == forks_; }

  // For writers, one at a time. The stamp of what is retired now:
  uint64_t stamp() const { return epoch_.load(); }
  // Whether no reader can see any more what was retired with this stamp.
  bool passed(uint64_t stamp) {
    for (uint64_t epoch = epoch_.load(); epoch < stamp + 2; epoch_.store(++epoch)) {
      if (readers_[(epoch + 1) & 1].count.load() != 0) return false;
    }
    return true;
  }

  // In a forked child: the readers that were other threads of the parent do not exist.
  void forget_readers() {
    readers_[0].count = readers_[1].count = 0;
    ++forks_;
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> count{0};
  };
  std::atomic<uint64_t> epoch_{1};
  Counter readers_[2];
  uint32_t forks_ = 0;  // changes only where there is one thread
};

}  // namespace mlpbank
