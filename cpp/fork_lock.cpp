#include "fork_lock.h"

#include <pthread.h>

namespace mlpbank {
namespace {

std::mutex list_mutex;
ForkLock* lists[ForkLock::kRanks];  // the first of each rank

}  // namespace

ForkLock::ForkLock(Rank rank, void (*in_child)(void*), void* context)
    : rank_(rank), in_child_(in_child), context_(context) {
  static const int handlers = pthread_atfork(before_fork, after_fork, after_fork_in_child);
  (void)handlers;
  const std::lock_guard hold(list_mutex);
  next_ = lists[rank];
  if (next_ != nullptr) next_->before_ = this;
  lists[rank] = this;
}

ForkLock::~ForkLock() {
  const std::lock_guard hold(list_mutex);
  (before_ == nullptr ? lists[rank_] : before_->next_) = next_;
  if (next_ != nullptr) next_->before_ = before_;
}

template <class Visit>
void ForkLock::for_each(Visit visit) {
  for (ForkLock* first : lists) {
    for (ForkLock* lock = first; lock != nullptr; lock = lock->next_) visit(*lock);
  }
}

void ForkLock::before_fork() {
  list_mutex.lock();
  for_each([](ForkLock& one) { one.lock(); });
}

void ForkLock::after_fork() {
  for_each([](ForkLock& one) { one.unlock(); });
  list_mutex.unlock();
}

void ForkLock::after_fork_in_child() {
  for_each([](ForkLock& one) { one.in_child_(one.context_); });
  after_fork();
}

}  // namespace mlpbank
