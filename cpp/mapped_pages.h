// MappedPages: asks for pages of a mapped file before they are read.
//
// A page that is not in memory is read when it is touched, and the next one only then. Asked for
// together, the reads of a call run side by side. Each page is asked for once, so a bank whose
// pages are in memory pays a few looks at a bitmap.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace mlpbank {

class MappedPages {
 public:
  // `bytes` of memory from `data` on, which lie in a mapping. Throws std::bad_alloc.
  MappedPages(const void* data, int64_t bytes);

  // Asks for the pages of `bytes` from `begin` on that were not asked for before. They may lie
  // outside this memory. Never fails: a refusal costs time only.
  void request(const void* begin, int64_t bytes);
  void request_all();
  // Bytes of pages that were not asked for.
  int64_t remaining() const { return remaining_pages_.load(std::memory_order_relaxed) * page_; }

 private:
  using Word = std::atomic<uint64_t>;  // of the bitmap

  const int64_t page_;          // bytes
  const uintptr_t first_page_;  // its number
  const int64_t num_pages_;
  const std::unique_ptr<Word[]> requested_;  // a bit for each page
  std::atomic<int64_t> remaining_pages_;
};

}  // namespace mlpbank
