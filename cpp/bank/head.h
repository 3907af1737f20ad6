// Head: the word by which processes that follow a folder learn that something is new, and the
// changes that were made last.
//
// It lies in pages that all of them have mapped. A writer stores the number of its last change
// when that is committed; a follower compares the word with what it has taken over. A process
// that sees a change publishes it as well: its writer may be late, or killed before it told.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "bank/recent_changes.h"

namespace mlpbank {

class Head {
 public:
  // `word` is 8-byte aligned, and `owner` keeps it mapped, and what `recent` lies in.
  Head(uint64_t* word, const RecentChanges& recent, std::shared_ptr<const void> owner)
      : word_(reinterpret_cast<std::atomic<uint64_t>*>(word)),
        recent_(recent),
        owner_(std::move(owner)) {}

  uint64_t sequence() const { return word_->load(std::memory_order_acquire); }
  // Never goes back, though writers may come here in another order than they committed in.
  void publish(uint64_t sequence) {
    uint64_t before = word_->load();
    while (before < sequence && !word_->compare_exchange_weak(before, sequence)) {
    }
  }
  // For a word that a stopped machine has left as any number.
  void reset(uint64_t sequence) { word_->store(sequence); }

  RecentChanges& recent() { return recent_; }
  const RecentChanges& recent() const { return recent_; }

 private:
  static_assert(sizeof(std::atomic<uint64_t>) == 8 && std::atomic<uint64_t>::is_always_lock_free,
                "other processes see the word as it is");

  std::atomic<uint64_t>* const word_;
  RecentChanges recent_;
  const std::shared_ptr<const void> owner_;
};

}  // namespace mlpbank
