// Rows that lie scattered over memory: copying them and prefetching them.
#pragma once

#include <cstdint>
#include <cstring>

namespace mlpbank {

// What lies so many entries ahead is prefetched: enough for memory's latency, and the rows of all
// still fit L1.
constexpr int64_t kEntriesAhead = 16;

// Entries of `floats` floats each.
template <class Float>
struct Rows {
  Rows(Float* first_entry, int64_t entry_floats) : first(first_entry), floats(entry_floats) {}
  Float* at(int64_t entry) const { return first + entry * floats; }
  Float* first;
  int64_t floats;
};

// The first lines of a row; the CPU itself goes on with those of a long one.
constexpr int64_t kPrefetchedLines = 4, kLineFloats = 16;
template <int Write>
inline void prefetch_lines(const float* row, int64_t floats) {
  const int64_t most = kPrefetchedLines * kLineFloats;
  const float* const last = row + (floats < most ? floats : most) - 1;
  for (; row < last; row += kLineFloats) __builtin_prefetch(row, Write, 3);
  __builtin_prefetch(last, Write, 3);
}
inline void prefetch_row(const float* row, int64_t floats) { prefetch_lines<0>(row, floats); }
inline void prefetch_row_to_write(const float* row, int64_t floats) {
  prefetch_lines<1>(row, floats);
}

// A memcpy for short rows: a call would take longer than copying.
inline void copy_row(const float* from, int64_t floats, float* to) {
  constexpr int64_t kStep = 4, kShort = 64;
  if (floats > kShort) {
    std::memcpy(to, from, sizeof(float) * static_cast<std::size_t>(floats));
  } else if (floats < kStep) {
    for (int64_t i = 0; i < floats; ++i) to[i] = from[i];
  } else {  // the last step overlaps the one before it
    const int64_t last = floats - kStep;
    for (int64_t i = 0; i < last; i += kStep) std::memcpy(to + i, from + i, sizeof(float) * kStep);
    std::memcpy(to + last, from + last, sizeof(float) * kStep);
  }
}

}  // namespace mlpbank
