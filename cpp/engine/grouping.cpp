// Grouping: a radix sort of entries by slot, and the groups of each block.
#include "engine/grouping.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace mlpbank {

void Grouping::group(const int64_t* slots, int64_t entries, int64_t num_models,
                     int64_t block_models, int64_t max_entries) {
  constexpr int64_t kLimit = int64_t{1} << 32;
  if (entries >= kLimit || num_models > kLimit) {
    throw std::overflow_error("models: expected fewer than 2^32");
  }
  keys_.resize(static_cast<std::size_t>(entries));
  bool ascending = true;
  int64_t before = 0;
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t slot = slots[i];
    if (slot < 0 || slot >= num_models) {
      throw std::out_of_range("models[" + std::to_string(i) + "]: expected 0 to " +
                              std::to_string(num_models - 1) + ", got " + std::to_string(slot));
    }
    ascending &= before <= slot;
    before = slot;
    keys_[static_cast<std::size_t>(i)] =
        static_cast<uint64_t>(slot) << 32 | static_cast<uint64_t>(i);
  }
  if (!ascending) sort(num_models);

  groups_.clear();
  // block_models is 1 or 16, so that a shift divides.
  const int shift = __builtin_ctzll(static_cast<uint64_t>(block_models));
  Group group = {-1, 0, 0};
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t block = slot(i) >> shift;
    if (block != group.block || i - group.begin >= max_entries) {
      if (i > 0) groups_.push_back(group);
      group = {block, i, i};
    }
    group.end = i + 1;
  }
  if (entries > 0) groups_.push_back(group);
}

// Sorts by slot, least significant digit first: stable, with as many passes as the largest slot
// needs. The keys carry their entries along, so every pass reads memory in order.
void Grouping::sort(int64_t num_models) {
  constexpr int kDigitBits = 11;
  constexpr uint64_t kDigits = uint64_t{1} << kDigitBits;
  buffer_.resize(keys_.size());
  for (int shift = 32; (num_models - 1) >> (shift - 32) != 0; shift += kDigitBits) {
    uint32_t start[kDigits + 1] = {};
    for (const uint64_t key : keys_) ++start[(key >> shift & (kDigits - 1)) + 1];
    std::partial_sum(start, start + kDigits + 1, start);
    for (const uint64_t key : keys_) buffer_[start[key >> shift & (kDigits - 1)]++] = key;
    keys_.swap(buffer_);
  }
}

}  // namespace mlpbank
