// ForkLock: lists of all locks, and what fork() does with them.
#include "fork_lock.h"

#include <pthread.h>

namespace mlpbank {
namespace {

std::mutex list_mutex;
ForkLock* lists[ForkLock::kRanks];  // all locks by rank

}  // namespace

ForkLock::ForkLock(Rank rank, void (*in_child)(void*), void* context)
    : rank_(rank), in_child_(in_child), context_(context) {
  static const int handlers = pthread_atfork(before_fork, after_fork, after_fork_in_child);
  (void)handlers;
  const std::lock_guard hold(list_mutex);
  next_ = lists[rank];
  if (next_ != nullptr) next_->previous_ = this;
  lists[rank] = this;
}

ForkLock::~ForkLock() {
  const std::lock_guard hold(list_mutex);
  (previous_ == nullptr ? lists[rank_] : previous_->next_) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
}

template <class Visit>
void ForkLock::for_each(Visit visit) {
  for (ForkLock* first : lists) {
    for (ForkLock* lock = first; lock != nullptr; lock = lock->next_) visit(*lock);
  }
}

void ForkLock::before_fork() {
  list_mutex.lock();
  for_each([](ForkLock& lock) { lock.lock(); });
}

void ForkLock::after_fork() {
  for_each([](ForkLock& lock) { lock.unlock(); });
  list_mutex.unlock();
}

void ForkLock::after_fork_in_child() {
  for_each([](ForkLock& lock) {
    if (lock.in_child_ != nullptr) lock.in_child_(lock.context_);
  });
  after_fork();
}

}  // namespace mlpbank
