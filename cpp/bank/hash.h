// KeyHash: hashes of keys.
//
// Keys may come from an attacker. If the hash were known, the attacker could choose keys that all
// fall into one bucket. So tables hash with a secret seed: SipHash-1-3 (J.-P. Aumasson and
// D. J. Bernstein, INDOCRYPT 2012). Files of format version 1 have no seed.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace mlpbank {

// The state of SipHash-1-3.
struct Sip {
  uint64_t a, b, c, d;

  static Sip start(uint64_t k0, uint64_t k1) {
    return {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du, k0 ^ 0x6c7967656e657261u,
            k1 ^ 0x7465646279746573u};
  }
  void add(uint64_t word) {
    d ^= word;
    round();
    a ^= word;
  }
  uint64_t end() {
    c ^= 0xff;
    for (int r = 0; r < 3; ++r) round();
    return a ^ b ^ c ^ d;
  }

 private:
  static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }
  void round() {
    a += b, b = rotate(b, 13) ^ a, a = rotate(a, 32);
    c += d, d = rotate(d, 16) ^ c;
    a += d, d = rotate(d, 21) ^ a;
    c += b, b = rotate(b, 17) ^ c, c = rotate(c, 32);
  }
};

struct KeyHash {
  bool seeded = false;
  uint64_t k0 = 0, k1 = 0;

  static KeyHash random();  // with a secret seed
  bool operator==(const KeyHash& other) const {
    return seeded == other.seeded && k0 == other.k0 && k1 == other.k1;
  }

  uint64_t operator()(std::string_view key) const { return seeded ? sip(key) : fnv(key); }
  // An int key is hashed as its 8 bytes, the lowest first.
  uint64_t operator()(int64_t key) const {
    const auto word = static_cast<uint64_t>(key);
    return seeded ? sip(word) : splitmix(word);
  }

  // What a text is hashed as: its words, and one with what is left of it and its length.
  static std::size_t num_words(std::string_view text) { return text.size() / 8 + 1; }
  static uint64_t first_words(std::string_view text, std::size_t i) {
    return word<uint64_t>(text.data() + 8 * i);
  }
  static uint64_t last_word(std::string_view text) {
    return static_cast<uint64_t>(text.size()) << 56 | tail(text.data(), text.size());
  }
  static constexpr uint64_t kLastWordOfNumber = uint64_t{sizeof(int64_t)} << 56;

 private:
  // Bytes as a little-endian number.
  template <class Word>
  static uint64_t word(const char* bytes) {
    Word value;
    std::memcpy(&value, bytes, sizeof value);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    value = sizeof value == 8 ? __builtin_bswap64(value) : __builtin_bswap32(value);
#endif
    return value;
  }
  // The last size % 8 bytes.
  static uint64_t tail(const char* bytes, std::size_t size) {
    const std::size_t count = size % 8;
    // In two steps: a shift by 64 is none.
    if (size >= 8) return word<uint64_t>(bytes + size - 8) >> 8 * (7 - count) >> 8;
    if (size >= 4)
      return word<uint32_t>(bytes) | word<uint32_t>(bytes + size - 4) << 8 * (size - 4);
    uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i)
      value |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[i])) << 8 * i;
    return value;
  }

  uint64_t sip(std::string_view text) const {
    Sip state = Sip::start(k0, k1);
    for (std::size_t i = 0; i + 1 < num_words(text); ++i) state.add(first_words(text, i));
    state.add(last_word(text));
    return state.end();
  }
  uint64_t sip(uint64_t word) const {
    Sip state = Sip::start(k0, k1);
    state.add(word);
    state.add(kLastWordOfNumber);
    return state.end();
  }

  // FNV-1a over the bytes, the upper half folded into the lower (G. Fowler, L. C. Noll, K.-P. Vo).
  static uint64_t fnv(std::string_view key) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char c : key) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    return hash ^ hash >> 32;
  }

  // The finaliser of SplitMix64 (G. L. Steele, D. Lea, C. H. Flood, OOPSLA 2014).
  static uint64_t splitmix(uint64_t key) {
    uint64_t hash = key + 0x9e3779b97f4a7c15u;
    hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ hash >> 27) * 0x94d049bb133111ebu;
    return hash ^ hash >> 31;
  }
};

}  // namespace mlpbank
