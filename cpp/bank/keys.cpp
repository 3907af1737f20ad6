#include "bank/keys.h"

#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace mlpbank {
namespace {

constexpr int64_t kAbsent = -1, kTooLong = -2;

// The position of a key, kAbsent, or kTooLong after `max_steps`.
template <class Keys, class Key>
int64_t search(const Keys& keys, const Slots& slots, uint64_t slot, Key key, uint64_t max_steps) {
  const uint64_t mask = slots.count - 1;
  for (uint64_t step = 0; step < slots.count; ++step, ++slot) {
    if (step == max_steps) return kTooLong;
    const uint64_t position = slots.data[slot & mask];
    if (position == 0) return kAbsent;
    Key other;
    if (position <= static_cast<uint64_t>(keys.count) && keys.get(position - 1, other) && other == key) {
      return static_cast<int64_t>(position) - 1;
    }
  }
  return kAbsent;
}

// Puts all keys into slots that are zero. Of equal keys the first counts; returns the position of the second, or -1.
template <class Keys, class Key>
int64_t fill(const Keys& keys, const KeyHash& hash, uint32_t* data, Key key) {
  const uint64_t count = static_cast<uint64_t>(num_slots(keys.count)), mask = count - 1;
  int64_t duplicate = -1;
  for (int64_t i = 0; i < keys.count; ++i) {
    if (!keys.get(static_cast<uint64_t>(i), key)) continue;
    uint64_t slot = hash(key);
    bool equal = false;
    for (Key other; data[slot & mask] != 0 && !equal; slot += equal ? 0 : 1) {
      equal = keys.get(data[slot & mask] - 1, other) && other == key;
    }
    if (!equal) {
      data[slot & mask] = static_cast<uint32_t>(i + 1);
    } else if (duplicate < 0) {
      duplicate = i;
    }
  }
  return duplicate;
}

}  // namespace

KeyHash KeyHash::random() {
  std::random_device device;
  const auto word = [&] { return static_cast<uint64_t>(device()) << 32 | device(); };
  return {true, word(), word()};
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

int64_t fill_slots(const StringKeys& keys, const KeyHash& hash, uint32_t* slots) {
  return fill(keys, hash, slots, std::string_view());
}
int64_t fill_slots(const IntKeys& keys, const KeyHash& hash, uint32_t* slots) {
  return fill(keys, hash, slots, int64_t{0});
}

struct KeyTable::Built {
  std::vector<uint32_t> data;
  KeyHash hash;

  Slots slots() const { return {data.data(), data.size()}; }
};

KeyTable::KeyTable(StringKeys keys, Slots slots, KeyHash hash, std::shared_ptr<const void> owner)
    : kind_(KeyKind::text), strings_(keys), slots_(slots), hash_(hash), owner_(std::move(owner)) {}

KeyTable::KeyTable(IntKeys keys, Slots slots, KeyHash hash, std::shared_ptr<const void> owner)
    : kind_(KeyKind::number), ints_(keys), slots_(slots), hash_(hash), owner_(std::move(owner)) {}

KeyTable::~KeyTable() { delete built_.load(); }

int64_t KeyTable::find(const KeyView& key) const {
  return kind_ == KeyKind::text ? find_in(strings_, key.text) : find_in(ints_, key.number);
}

template <class Keys, class Key>
int64_t KeyTable::find_in(const Keys& keys, Key key) const {
  const Built* built = built_.load(std::memory_order_acquire);
  if (built == nullptr) {
    const int64_t found = search(keys, slots_, hash_(key), key, kMaxSteps);
    if (found != kTooLong) return found;
    built = &rebuild(keys);
  }
  return search(keys, built->slots(), built->hash(key), key, built->data.size());
}

template <class Keys>
const KeyTable::Built& KeyTable::rebuild(const Keys& keys) const {
  auto built = std::make_unique<Built>();
  built->data.resize(static_cast<std::size_t>(num_slots(keys.count)));
  built->hash = KeyHash::random();
  fill_slots(keys, built->hash, built->data.data());
  const Built* first = nullptr;  // another thread may have been faster
  return built_.compare_exchange_strong(first, built.get()) ? *built.release() : *first;
}

}  // namespace mlpbank
