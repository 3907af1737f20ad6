// Aligned memory for weights and scratch.
#pragma once

#include <cstdint>
#include <utility>

#include "types.h"

namespace mlpbank {

// Lets memory that is filled already lie in huge pages, as far as it covers whole ones, where the
// system is able to. It is copied for that, so this is for memory that will be read often.
void use_huge_pages(const void* data, int64_t bytes);

// Zeroed, 64-byte aligned floats. Large ones ask for huge pages: a stream of weights then misses
// the TLB 512 times less.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t floats);
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }

  static AlignedBuffer of_bytes(int64_t bytes) { return AlignedBuffer((bytes + 3) / 4); }

  float* data() const { return data_; }
  int64_t size() const { return floats_; }
  Bytes* bytes() const { return reinterpret_cast<Bytes*>(data_); }
  int64_t nbytes() const { return floats_ * static_cast<int64_t>(sizeof(float)); }

 private:
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(floats_, other.floats_);
  }

  float* data_ = nullptr;
  int64_t floats_ = 0;
};

}  // namespace mlpbank
