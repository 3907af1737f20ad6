// Keys as the core looks them up: types of keys, and views of them.
#pragma once

#include <cstdint>
#include <string_view>

#include "bank/hash.h"

namespace mlpbank {

constexpr int64_t kNoSlot = -1;

// The type of all keys of a bank. Types of tuples are made by `tuple_type`.
enum class KeyType : uint32_t { none, text, number };

// Tuples have 1 to kMaxParts parts. Their type is kTuple with, in the bits below, a leading 1 and
// then a bit for each part: 1 for a number.
constexpr int kMaxParts = 16;
constexpr uint32_t kTuple = uint32_t{1} << 31;

inline bool is_tuple(KeyType type) { return (static_cast<uint32_t>(type) & kTuple) != 0; }

// Builds the type of a tuple, part by part.
class TupleType {
 public:
  void add(bool is_number) { bits_ = bits_ << 1 | static_cast<uint32_t>(is_number); }
  KeyType type() const { return static_cast<KeyType>(kTuple | bits_); }

 private:
  uint32_t bits_ = 1;
};

int num_parts(KeyType tuple);
inline bool is_number(KeyType tuple, int part, int parts) {
  return (static_cast<uint32_t>(tuple) >> (parts - 1 - part) & 1) != 0;
}

// A key to look up: text (UTF-8), a number, or a tuple. Of a tuple `text` has all parts one after
// the other, a number as its 8 bytes, the lowest first, a text as a 32-bit number of bytes, the
// lowest first, and these bytes. So different tuples of one type are different texts.
struct KeyView {
  KeyType type;
  std::string_view text;
  int64_t number;

  static KeyView of(std::string_view text) { return {KeyType::text, text, 0}; }
  static KeyView of(int64_t number) { return {KeyType::number, {}, number}; }
  bool operator==(const KeyView& other) const {
    return type == other.type && text == other.text && number == other.number;
  }
  uint64_t hash(const KeyHash& by) const { return type == KeyType::number ? by(number) : by(text); }
};

// Of 256 shards the one of a key: the upper byte of its hash without a seed, mixed once more. (The
// upper byte of FNV-1a hardly differs among keys that end differently.) Files depend on it.
inline int64_t shard_of(const KeyView& key) {
  const KeyHash hash{};
  return static_cast<int64_t>(hash(static_cast<int64_t>(key.hash(hash))) >> 56);
}

}  // namespace mlpbank
