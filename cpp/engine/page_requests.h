// Asking for the weights of a forward in a mapped file, ahead of computing.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mapped_pages.h"
#include "weights/weights.h"

namespace mlpbank {

// Asks for the blocks of tasks, so that the disk reads many at once. Weights in memory have none of
// its costs.
template <class Tasks>
class PageRequests {
 public:
  PageRequests(const BatchedWeights& weights, const Tasks& tasks, int64_t num_tasks)
      : pages_(weights.mapped_pages()),
        tasks_(tasks),
        num_tasks_(num_tasks),
        block_bytes_(weights.layout().block_bytes()) {
    if (pages_ != nullptr && pages_->remaining() == 0) pages_ = nullptr;
  }

  // Before the call computes. What scattered models need is asked for here, all at once; more than
  // this would push pages out of memory before they are read.
  void begin_call() const { request(0, kCallBytes); }
  // Before task i of a thread's chunk, which begins at `begin` and ends before `end`: keeps some
  // memory ahead.
  void before(int64_t i, int64_t begin, int64_t end) const {
    if (pages_ == nullptr) return;
    const int64_t step = std::max<int64_t>(1, kStepBytes / block_bytes_);
    if ((i - begin) % step != 0) return;
    request(i, std::min(kAheadBytes, (end - i) * block_bytes_));
  }

 private:
  static constexpr int64_t kCallBytes = 64 << 20, kAheadBytes = 16 << 20, kStepBytes = 4 << 20;

  // The blocks of the tasks from `first` on, of so many bytes.
  void request(int64_t first, int64_t bytes) const {
    if (pages_ == nullptr) return;
    const int64_t count = std::max<int64_t>(1, bytes / block_bytes_);
    const Bytes* run = nullptr;  // adjacent blocks are one request
    int64_t run_bytes = 0;
    auto task = tasks_.task(first);
    for (int64_t i = first; i < std::min(num_tasks_, first + count); ++i) {
      const Bytes* block = tasks_.block(task);
      task = tasks_.after(task);
      if (block == nullptr || (run != nullptr && block == run + run_bytes - block_bytes_)) continue;
      if (run == nullptr || block != run + run_bytes) {
        pages_->request(run, run_bytes);
        run = block;
        run_bytes = 0;
      }
      run_bytes += block_bytes_;
    }
    pages_->request(run, run_bytes);
  }

  MappedPages* pages_;  // null: there is nothing to ask for
  const Tasks& tasks_;
  const int64_t num_tasks_, block_bytes_;
};

}  // namespace mlpbank
