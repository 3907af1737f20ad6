// ForkLock: a mutex that fork() takes first, so that a child finds what it guards whole and usable.
#pragma once

#include <mutex>

namespace mlpbank {

// A thread that holds one may take another only of a higher rank.
class ForkLock {
 public:
  enum Rank { follower, bank, weights, kRanks };

  // In a forked child it runs `in_child(context)`, unless null, while all ForkLocks are still held.
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
  ForkLock* previous_ = nullptr;
};

// Holds a ForkLock for its lifetime. A method that needs the lock takes this as its first argument,
// so that a caller without the lock does not compile.
using LockHeld = std::lock_guard<ForkLock>;

}  // namespace mlpbank
