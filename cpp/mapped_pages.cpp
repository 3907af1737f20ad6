// MappedPages: a bitmap, and runs of its bits for the kernel.
#include "mapped_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace mlpbank {
namespace {

constexpr int64_t kBits = 64;  // of a word

// Pages from the first to the last of `bytes` bytes.
int64_t count_pages(const void* data, int64_t bytes, int64_t page) {
  if (bytes <= 0) return 0;
  const auto begin = reinterpret_cast<uintptr_t>(data), size = static_cast<uintptr_t>(page);
  return static_cast<int64_t>((begin + static_cast<uintptr_t>(bytes) - 1) / size - begin / size) +
         1;
}

}  // namespace

MappedPages::MappedPages(const void* data, int64_t bytes)
    : page_(sysconf(_SC_PAGESIZE)),
      first_page_(reinterpret_cast<uintptr_t>(data) / static_cast<uintptr_t>(page_)),
      num_pages_(count_pages(data, bytes, page_)),
      requested_(new Word[static_cast<std::size_t>(num_pages_ / kBits + 1)]()),
      remaining_pages_(num_pages_) {}

void MappedPages::request(const void* begin, int64_t bytes) {
  const auto page_size = static_cast<uintptr_t>(page_);
  const auto page = reinterpret_cast<uintptr_t>(begin) / page_size;
  if (page < first_page_) return;
  int64_t i = static_cast<int64_t>(page - first_page_);
  const int64_t end = std::min(num_pages_, i + count_pages(begin, bytes, page_));
  int64_t run = i;  // pages from here up to i were not asked for
  const auto ask = [&] {
    if (run == i) return;
    auto* const from =
        reinterpret_cast<void*>((first_page_ + static_cast<uintptr_t>(run)) * page_size);
    madvise(from, static_cast<std::size_t>((i - run) * page_), MADV_WILLNEED);
    remaining_pages_.fetch_sub(i - run, std::memory_order_relaxed);
  };
  for (; i < end; ++i) {
    Word& word = requested_[static_cast<std::size_t>(i / kBits)];
    const uint64_t bit = uint64_t{1} << (i % kBits);
    const bool is_new = (word.load(std::memory_order_relaxed) & bit) == 0 &&
                        (word.fetch_or(bit, std::memory_order_relaxed) & bit) == 0;
    if (is_new) continue;
    ask();
    run = i + 1;
  }
  ask();
}

void MappedPages::request_all() {
  request(reinterpret_cast<const void*>(first_page_ * static_cast<uintptr_t>(page_)),
          num_pages_ * page_);
}

}  // namespace mlpbank
