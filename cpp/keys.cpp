#include "keys.h"

namespace mlpbank {
namespace {

template <class Keys, class Key>
int64_t find(const Keys& keys, const Slots& slots, Key key) {
  const uint64_t mask = slots.count - 1;
  uint64_t slot = hash_key(key);
  for (uint64_t step = 0; step < slots.count; ++step, ++slot) {
    const uint64_t position = slots.data[slot & mask];
    if (position == 0) return -1;
    Key other;
    if (position <= static_cast<uint64_t>(keys.count) && keys.get(position - 1, other) && other == key) {
      return static_cast<int64_t>(position) - 1;
    }
  }
  return -1;
}

template <class Keys, class Key>
int64_t fill(const Keys& keys, uint32_t* data, Key key) {
  const Slots slots = {data, static_cast<uint64_t>(num_slots(keys.count))};
  for (int64_t i = 0; i < keys.count; ++i) {
    keys.get(static_cast<uint64_t>(i), key);
    if (find(keys, slots, key) >= 0) return i;
    uint64_t slot = hash_key(key);
    while (data[slot & (slots.count - 1)] != 0) ++slot;
    data[slot & (slots.count - 1)] = static_cast<uint32_t>(i + 1);
  }
  return -1;
}

}  // namespace

uint64_t hash_key(std::string_view key) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : key) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash ^ hash >> 32;
}

uint64_t hash_key(int64_t key) {
  auto hash = static_cast<uint64_t>(key) + 0x9e3779b97f4a7c15u;
  hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9u;
  hash = (hash ^ hash >> 27) * 0x94d049bb133111ebu;
  return hash ^ hash >> 31;
}

bool StringKeys::get(uint64_t i, std::string_view& key) const {
  const uint64_t begin = offsets[i], end = offsets[i + 1];
  if (begin > end || end > num_bytes) return false;
  key = std::string_view(bytes + begin, end - begin);
  return true;
}

int64_t num_slots(int64_t count) {
  int64_t slots = 2;
  while (slots < 2 * count) slots *= 2;
  return slots;
}

int64_t find_key(const StringKeys& keys, const Slots& slots, std::string_view key) { return find(keys, slots, key); }
int64_t find_key(const IntKeys& keys, const Slots& slots, int64_t key) { return find(keys, slots, key); }

int64_t fill_slots(const StringKeys& keys, uint32_t* slots) { return fill(keys, slots, std::string_view()); }
int64_t fill_slots(const IntKeys& keys, uint32_t* slots) { return fill(keys, slots, int64_t{0}); }

}  // namespace mlpbank
