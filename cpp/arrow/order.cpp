// A counting sort.
#include "arrow/order.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "engine/threads.h"

namespace mlpbank {
namespace {

constexpr double kNanosecondsPerOutput = 2;
constexpr int64_t kRestored = 4096;  // rows at a time

}  // namespace

RowOrder::RowOrder(const int64_t* slots, int64_t count, int64_t num_slots) {
  if (count > kMostRows) throw std::invalid_argument("rows: too many to sort");
  // next[slot]: where the next row of the slot goes; the last is of rows without a model.
  std::vector<uint32_t> next(static_cast<std::size_t>(num_slots) + 1);
  const auto at = [&](int64_t slot) {
    return static_cast<std::size_t>(slot < 0 ? num_slots : slot);
  };
  for (int64_t i = 0; i < count; ++i) {
    if (slots[i] >= num_slots) throw std::out_of_range("slots: no such model");
    ++next[at(slots[i])];
  }
  slots_.resize(static_cast<std::size_t>(count) - next.back());
  uint32_t begin = 0;
  for (std::size_t slot = 0; slot < next.size(); ++slot) {
    const uint32_t rows = next[slot];
    if (slot + 1 < next.size())
      std::fill_n(slots_.begin() + begin, rows, static_cast<int64_t>(slot));
    next[slot] = begin;
    begin += rows;
  }
  positions_.resize(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < positions_.size(); ++i) positions_[i] = next[at(slots[i])]++;
}

void RowOrder::restore(const float* sorted, int64_t outputs, int threads, float* to) const {
  const int64_t rows = num_rows(), batches = (rows + kRestored - 1) / kRestored;
  const auto known = static_cast<uint32_t>(slots_.size());
  const double nanoseconds = kNanosecondsPerOutput * static_cast<double>(rows * outputs);
  parallel_for(threads, {batches, 1, nanoseconds}, [&](int64_t first, int64_t last) {
    for (int64_t i = first * kRestored; i < std::min(last * kRestored, rows); ++i) {
      const uint32_t position = positions_[static_cast<std::size_t>(i)];
      const float* const from = sorted + static_cast<int64_t>(position) * outputs;
      for (int64_t o = 0; o < outputs; ++o) {
        to[o * rows + i] = position < known ? from[o] : std::numeric_limits<float>::quiet_NaN();
      }
    }
  });
}

}  // namespace mlpbank
