// Asking for memory ahead of its use.
#pragma once

namespace mlpbank {

// Brings the cache line of an address, which may be any, into L1 or L2.
template <int Level = 1>
inline void prefetch_line(const void* address) {
  __builtin_prefetch(address, 0, 4 - Level);
  // GCC 12 takes a function that only prefetches for one without effects, and drops its calls.
  __asm__ volatile("");
}
template <int Level = 1>
inline void prefetch_line_to_write(const void* address) {
  __builtin_prefetch(address, 1, 4 - Level);
  __asm__ volatile("");
}

}  // namespace mlpbank
