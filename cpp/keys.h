// KeyTable: from keys to positions, over arrays that lie in memory or in a mapped file. It never changes.
//
// Open addressing: `slots` has a power of two of entries, each 0 (empty) or 1 + the position of a key. A key is looked
// for from slot hash(key) modulo their number onwards, in turn, up to the first empty one. Nothing has to be built or
// even read when a file of a million keys is opened; a lookup touches the pages it needs.
//
// The arrays may come from an untrusted file: whatever they hold, find() stays inside them and ends.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace mlpbank {

// FNV-1a over the bytes, the upper half folded into the lower (G. Fowler, L. C. Noll, K.-P. Vo).
uint64_t hash_key(std::string_view key);
// The finaliser of SplitMix64 (G. L. Steele, D. Lea, C. H. Flood, OOPSLA 2014).
uint64_t hash_key(int64_t key);

// Key i is bytes[offsets[i], offsets[i + 1]).
struct StringKeys {
  int64_t count;
  const uint64_t* offsets;
  const char* bytes;
  uint64_t num_bytes;

  // False for a key that reaches outside `bytes`.
  bool get(uint64_t i, std::string_view& key) const;
};

struct IntKeys {
  int64_t count;
  const int64_t* values;

  bool get(uint64_t i, int64_t& key) const {
    key = values[i];
    return true;
  }
};

struct Slots {
  const uint32_t* data;
  uint64_t count;  // a power of two
};

// Number of slots for so many keys: at most half of them are taken.
int64_t num_slots(int64_t count);

// The position of a key, or -1.
int64_t find_key(const StringKeys& keys, const Slots& slots, std::string_view key);
int64_t find_key(const IntKeys& keys, const Slots& slots, int64_t key);

// Fills `slots`, which are num_slots(keys.count) zeros. Returns -1, or the position of the first key that another one
// before it equals.
int64_t fill_slots(const StringKeys& keys, uint32_t* slots);
int64_t fill_slots(const IntKeys& keys, uint32_t* slots);

}  // namespace mlpbank
