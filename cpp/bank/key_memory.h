// Reading the memory of keys: asking for it ahead, and comparing.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "prefetch.h"

namespace mlpbank {

// Any offset may be given.
inline void prefetch_line_at(const char* from, uint64_t offset) {
  prefetch_line(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + offset));
}

// Whether two texts are equal. Those of keys are short, and this is inlined.
inline bool same_text(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  const auto differ = [&](auto word, std::size_t at) {
    auto other = word;
    std::memcpy(&word, a.data() + at, sizeof word);
    std::memcpy(&other, b.data() + at, sizeof word);
    return word != other;
  };
  const std::size_t size = a.size();
  if (size >= 8) {  // the last eight bytes overlap those before
    for (std::size_t i = 0; i + 8 < size; i += 8)
      if (differ(uint64_t{}, i)) return false;
    return !differ(uint64_t{}, size - 8);
  }
  if (size >= 4) return !differ(uint32_t{}, 0) && !differ(uint32_t{}, size - 4);
  for (std::size_t i = 0; i < size; ++i)
    if (a[i] != b[i]) return false;
  return true;
}

}  // namespace mlpbank
