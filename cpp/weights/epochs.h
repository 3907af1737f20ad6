// Epoch-based reclamation: when memory that readers may still see can be used again.
//
// Each reader belongs to the epoch in which it entered. Memory is unpublished first and then
// retired with a stamp, the current epoch e, so only readers of epochs up to e can see it. The
// epoch moves from e to e + 1 only when no reader of epoch e - 1 is left; at epoch e + 2,
// therefore, all readers that could see the memory have left. Readers belong to two epochs at most,
// so two counters suffice. Readers never wait for writers: entering is one increment, repeated only
// when the epoch moved on in between.
#pragma once

#include <atomic>
#include <cstdint>

namespace mlpbank {

class Epochs {
 public:
  // Readers. enter() returns the token that leave() takes; an EpochGuard does both.
  struct Token {
    int counter;
    uint32_t fork;  // tells a reader's process from its parent's
  };
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

  // Writers, one at a time. stamp() is for what is retired now; passed(stamp) says whether no
  // reader can still see what was retired with it.
  uint64_t stamp() const { return epoch_.load(); }
  bool passed(uint64_t stamp) {
    for (uint64_t epoch = epoch_.load(); epoch < stamp + 2; epoch_.store(++epoch)) {
      if (readers_[(epoch + 1) & 1].count.load() != 0) return false;
    }
    return true;
  }

  // In a forked child: the parent's other threads, and so its readers, do not exist.
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
  uint32_t forks_ = 0;  // changes only in a process that has one thread
};

// A reader, until leave() or its end. While it is inside, nothing that it has seen is reclaimed.
class EpochGuard {
 public:
  explicit EpochGuard(Epochs& epochs) : epochs_(&epochs), token_(epochs.enter()) {}
  ~EpochGuard() { leave(); }
  EpochGuard(const EpochGuard&) = delete;
  EpochGuard& operator=(const EpochGuard&) = delete;

  void leave() {
    if (epochs_ != nullptr) epochs_->leave(token_);
    epochs_ = nullptr;
  }
  bool is_known() const { return epochs_ != nullptr && epochs_->is_known(token_); }

 private:
  Epochs* epochs_;  // null: has left
  const Epochs::Token token_;
};

// What a ForkLock runs in a forked child, with the Epochs that its readers entered.
inline void forget_readers(void* epochs) { static_cast<Epochs*>(epochs)->forget_readers(); }

}  // namespace mlpbank
