// Rows that lie scattered over memory: copying them and prefetching them.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "prefetch.h"

namespace mlpbank {

// What lies so many entries ahead is prefetched: enough for memory's latency. With 16, calls take
// 7 % longer.
constexpr int64_t kEntriesAhead = 32;

// Entries of `floats` floats each.
template <class Float>
struct Rows {
  Rows(Float* first_entry, int64_t entry_floats) : first(first_entry), floats(entry_floats) {}
  Float* at(int64_t entry) const { return first + entry * floats; }
  Float* first;
  int64_t floats;
};

// The first lines of a row, into L2; the CPU itself goes on with those of a long one. (One as short
// as a quarter of a line seldom lies in two.)
template <class Prefetch>
inline void prefetch_lines(const float* row, int64_t floats, Prefetch prefetch) {
  constexpr int64_t kLineFloats = 16, kMost = 4 * kLineFloats;
  prefetch(row);
  if (floats <= kLineFloats / 4) return;
  const float* const last = row + (floats < kMost ? floats : kMost) - 1;
  for (row += kLineFloats; row < last; row += kLineFloats) prefetch(row);
  prefetch(last);
}
inline void prefetch_row(const float* row, int64_t floats) {
  prefetch_lines(row, floats, [](const void* line) { prefetch_line<2>(line); });
}
inline void prefetch_row_to_write(const float* row, int64_t floats) {
  prefetch_lines(row, floats, [](const void* line) { prefetch_line_to_write<2>(line); });
}

// Calls visit(floats), with a constant where rows are shortest: their copies then compile to a
// move.
template <class Visit>
inline void with_length(int64_t floats, Visit visit) {
  switch (floats) {
    case 1:
      return visit(std::integral_constant<int64_t, 1>());
    case 2:
      return visit(std::integral_constant<int64_t, 2>());
    case 3:
      return visit(std::integral_constant<int64_t, 3>());
    case 4:
      return visit(std::integral_constant<int64_t, 4>());
    default:
      return visit(floats);
  }
}

// A memcpy for short rows: a call would take longer than copying.
inline void copy_row(const float* from, int64_t floats, float* to) {
  constexpr int64_t kStep = 4, kShort = 64;
  if (floats <= kStep || floats > kShort) {
    std::memcpy(to, from, sizeof(float) * static_cast<std::size_t>(floats));
  } else {  // the last step overlaps the one before it
    const int64_t last = floats - kStep;
    for (int64_t i = 0; i < last; i += kStep) std::memcpy(to + i, from + i, sizeof(float) * kStep);
    std::memcpy(to + last, from + last, sizeof(float) * kStep);
  }
}

}  // namespace mlpbank
