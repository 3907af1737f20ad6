// KeyBatch: keys that are looked up together. A look-up waits for memory several times, one read
// after the other: a bucket, then where its key lies, then the key. For a batch each of these is
// asked for for all keys before the first is used, so they wait together.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "bank/key_view.h"

namespace mlpbank {

// Asks for the cache line of an address. Any address may be given.
inline void prefetch_line(const void* address) { __builtin_prefetch(address, 0, 3); }
inline void prefetch_line(const char* from, uint64_t offset) {
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

struct KeyBatch {
  static constexpr int kSize = 32;

  const KeyView* keys;
  int64_t* slots;  // of the answers, kNoSlot for now
  int num_open = 0;
  uint8_t open[kSize];  // the keys that have no answer yet
  uint64_t hashes[kSize];

  // `count` keys, at most kSize. Those that are not of `type` have their answer: they are unknown.
  KeyBatch(const KeyView* from, int64_t count, KeyType type, int64_t* to) : keys(from), slots(to) {
    for (int i = 0; i < static_cast<int>(count); ++i) {
      slots[i] = kNoSlot;
      open[num_open] = static_cast<uint8_t>(i);
      num_open += keys[i].type == type;
    }
  }

  void hash(const KeyHash& by) {
    if (num_open == 0) return;
    if (keys[open[0]].type == KeyType::number) {
      for (int n = 0; n < num_open; ++n) hashes[open[n]] = by(keys[open[n]].number);
    } else {
      for (int n = 0; n < num_open; ++n) hashes[open[n]] = by(keys[open[n]].text);
    }
  }

  // Runs is_open(i) for each open key i. Those for which it is false have their answer.
  template <class IsOpen>
  void keep_open(IsOpen is_open) {
    int kept = 0;
    for (int n = 0; n < num_open; ++n) {
      const uint8_t i = open[n];
      open[kept] = i;
      kept += is_open(static_cast<int>(i)) ? 1 : 0;
    }
    num_open = kept;
  }
};

}  // namespace mlpbank
