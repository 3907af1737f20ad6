// KeyTable: from keys to slots, over arrays that lie in memory or in a mapped file and never
// change. Key i has slot i.
//
// Open addressing: each bucket holds 0 (empty) or 1 + the slot of a key. The number of buckets is a
// power of two. A search for a key starts at bucket hash(key) modulo that number and takes one
// bucket after the other, up to the first empty one. Opening a file of a million keys builds and
// reads nothing; a look-up touches the pages it needs.
//
// The arrays may come from an untrusted file: with any contents, find() stays inside them and ends.
// A table in which a search takes more than kMaxSteps was made to be slow. It is replaced by a new
// table with a secret seed.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "bank/hash.h"

namespace mlpbank {

// The longest search among 10^8 keys with a good hash takes some 100 steps.
constexpr uint64_t kMaxSteps = 512;
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

// Texts or tuples: key i is bytes[offsets[i], offsets[i + 1]).
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

struct Buckets {
  const uint32_t* data;
  uint64_t count;  // a power of two
};

// Number of buckets for so many keys: at most half of them are in use.
int64_t num_buckets(int64_t count);

// Fills `buckets`, which are num_buckets(keys.count) zeros. Returns the position of the first key
// that equals one before it, or -1.
int64_t fill_buckets(const StringKeys& keys, const KeyHash& hash, uint32_t* buckets);
int64_t fill_buckets(const IntKeys& keys, const KeyHash& hash, uint32_t* buckets);

class KeyTable {
 public:
  // `owner` keeps the arrays alive.
  KeyTable(KeyType type, StringKeys keys, Buckets buckets, KeyHash hash,
           std::shared_ptr<const void> owner);
  KeyTable(IntKeys keys, Buckets buckets, KeyHash hash, std::shared_ptr<const void> owner);
  ~KeyTable();

  KeyType key_type() const { return key_type_; }
  int64_t count() const { return key_type_ == KeyType::number ? ints_.count : strings_.count; }
  // The slot of a key of this table's type, or kNoSlot. Lock-free. Throws std::bad_alloc where a
  // table that was made to be slow has to be rebuilt.
  int64_t find(const KeyView& key) const;
  bool is_rebuilt() const { return rebuilt_.load() != nullptr; }

 private:
  struct Rebuilt;
  template <class Keys, class Key>
  int64_t find_in(const Keys& keys, Key key) const;
  template <class Keys>
  const Rebuilt& rebuild(const Keys& keys) const;

  KeyType key_type_;
  StringKeys strings_{0, nullptr, nullptr, 0};
  IntKeys ints_{0, nullptr};
  Buckets buckets_;
  KeyHash hash_;
  std::shared_ptr<const void> owner_;
  mutable std::atomic<const Rebuilt*> rebuilt_{nullptr};  // replaces buckets_ that are slow
};

}  // namespace mlpbank
