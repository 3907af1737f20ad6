// KeyTable: from keys to positions, over arrays that lie in memory or in a mapped file. The arrays never change.
//
// Open addressing: `slots` has a power of two of entries, each 0 (empty) or 1 + the position of a key. A key is looked
// for from slot hash(key) modulo their number onwards, in turn, up to the first empty one. Nothing has to be built or
// even read when a file of a million keys is opened; a lookup touches the pages it needs.
//
// The arrays may come from an untrusted file: whatever they hold, find() stays inside them and ends. A table in which
// a key is not found within kMaxSteps was made to be slow (with a good hash and half of the slots taken, the longest
// search among 10^8 keys is some 100 steps), so it is left for one that is built anew, with a seed that nobody knows.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "bank/hash.h"

namespace mlpbank {

constexpr uint64_t kMaxSteps = 512;

enum class KeyKind { none, text, number };

// A key on its way into a lookup: text (UTF-8) or a number.
struct KeyView {
  KeyKind kind;
  std::string_view text;
  int64_t number;

  static KeyView of(std::string_view text) { return {KeyKind::text, text, 0}; }
  static KeyView of(int64_t number) { return {KeyKind::number, {}, number}; }
};

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

// Fills `slots`, which are num_slots(keys.count) zeros. Returns -1, or the position of the first key that another one
// before it equals.
int64_t fill_slots(const StringKeys& keys, const KeyHash& hash, uint32_t* slots);
int64_t fill_slots(const IntKeys& keys, const KeyHash& hash, uint32_t* slots);

class KeyTable {
 public:
  // `owner` keeps the arrays.
  KeyTable(StringKeys keys, Slots slots, KeyHash hash, std::shared_ptr<const void> owner);
  KeyTable(IntKeys keys, Slots slots, KeyHash hash, std::shared_ptr<const void> owner);
  ~KeyTable();

  KeyKind kind() const { return kind_; }
  int64_t count() const { return kind_ == KeyKind::text ? strings_.count : ints_.count; }
  // The position of a key of this table's kind, or -1. Any number of threads may call it at once. Throws std::bad_alloc
  // where a table that was made to be slow has to be built anew.
  int64_t find(const KeyView& key) const;
  // Whether it was.
  bool is_rebuilt() const { return built_.load() != nullptr; }

 private:
  struct Built;
  template <class Keys, class Key>
  int64_t find_in(const Keys& keys, Key key) const;
  template <class Keys>
  const Built& rebuild(const Keys& keys) const;

  KeyKind kind_;
  StringKeys strings_{0, nullptr, nullptr, 0};
  IntKeys ints_{0, nullptr};
  Slots slots_;
  KeyHash hash_;
  std::shared_ptr<const void> owner_;
  mutable std::atomic<const Built*> built_{nullptr};  // instead of slots_, where those were made to be slow
};

}  // namespace mlpbank
