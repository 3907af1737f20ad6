// AlignedBuffer: allocation.
#include "buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace mlpbank {
namespace {

constexpr std::size_t kAlign = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

void use_huge_pages([[maybe_unused]] const void* data, [[maybe_unused]] int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (first >= last) return;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE of Linux 6.1, not in all headers; else later
  auto* const whole = reinterpret_cast<void*>(first);
  madvise(whole, last - first, MADV_HUGEPAGE);  // both may be refused without harm
  madvise(whole, last - first, kCollapse);
#endif
}

AlignedBuffer::AlignedBuffer(int64_t floats) : floats_(floats) {
  const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
  const std::size_t align = bytes >= kHugePage ? kHugePage : kAlign;
  const std::size_t rounded = (bytes + align - 1) / align * align;
  if (rounded < bytes) throw std::bad_alloc();
  data_ = static_cast<float*>(std::aligned_alloc(align, std::max(rounded, align)));
  if (data_ == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)                                         // of Linux
  if (align == kHugePage) madvise(data_, rounded, MADV_HUGEPAGE);  // may be refused without harm
#endif
  std::memset(data_, 0, bytes);
}

AlignedBuffer::~AlignedBuffer() { std::free(data_); }

}  // namespace mlpbank
