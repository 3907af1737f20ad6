// Mutexes that a fork takes first, so that the child finds whole what they guard and can use it.
#pragma once

#include <mutex>

namespace mlpbank {

// A thread that holds one may take another only of a higher rank.
class ForkLock {
 public:
  enum Rank { bank, weights, kRanks };

  // `in_child`, with `context`, runs in a forked child while all of these mutexes are still held.
  ForkLock(Rank rank, void (*in_child)(void* context), void* context);
  ~ForkLock();
  ForkLock(const ForkLock&) = delete;
  ForkLock& operator=(const ForkLock&) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  template <class Visit>
  static void for_each(Visit visit);
  static void before_fork();
  static void after_fork();
  static void after_fork_in_child();

  const Rank rank_;
  void (*const in_child_)(void*);
  void* const context_;
  std::mutex mutex_;
  ForkLock* next_ = nullptr;
  ForkLock* before_ = nullptr;
};

}  // namespace mlpbank
