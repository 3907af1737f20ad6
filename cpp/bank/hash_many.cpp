// SipHash-1-3 of 16 keys at a time, whose words lie side by side, in vectors.
#include "bank/hash_many.h"

#include <algorithm>

#if defined(__x86_64__)
#  include "cpu_x86.h"
#endif

namespace mlpbank {
namespace {

constexpr int kMany = 16;
constexpr std::size_t kMostWords = 8;  // a group with a longer text is hashed one by one

// Word w of key i is at words[w][i]. Behind the words of a key lies anything.
struct Group {
  uint64_t words[kMostWords][kMany];
  uint64_t num_words[kMany];
  std::size_t least, most;
};

// Loops over keys that compilers make vectors of, once they are inlined into a function for a CPU.
__attribute__((always_inline)) inline void hash_texts(const KeyHash& hash, const Group& group,
                                                      uint64_t* hashes) {
  uint64_t a[kMany], b[kMany], c[kMany], d[kMany];
  for (int i = 0; i < kMany; ++i) {
    const Sip start = Sip::start(hash.k0, hash.k1);
    a[i] = start.a, b[i] = start.b, c[i] = start.c, d[i] = start.d;
  }
  std::size_t w = 0;
  for (; w < group.least; ++w) {
    for (int i = 0; i < kMany; ++i) {
      Sip state = {a[i], b[i], c[i], d[i]};
      state.add(group.words[w][i]);
      a[i] = state.a, b[i] = state.b, c[i] = state.c, d[i] = state.d;
    }
  }
  for (; w < group.most; ++w) {
    for (int i = 0; i < kMany; ++i) {
      Sip state = {a[i], b[i], c[i], d[i]};
      state.add(group.words[w][i]);
      const bool has = w < group.num_words[i];
      a[i] = has ? state.a : a[i];
      b[i] = has ? state.b : b[i];
      c[i] = has ? state.c : c[i];
      d[i] = has ? state.d : d[i];
    }
  }
  for (int i = 0; i < kMany; ++i) {
    Sip state = {a[i], b[i], c[i], d[i]};
    hashes[i] = state.end();
  }
}

// Replaces numbers by their hashes.
__attribute__((always_inline)) inline void hash_numbers(const KeyHash& hash, uint64_t* numbers) {
  for (int i = 0; i < kMany; ++i) {
    Sip state = Sip::start(hash.k0, hash.k1);
    state.add(numbers[i]);
    state.add(KeyHash::kLastWordOfNumber);
    numbers[i] = state.end();
  }
}

struct ForCpu {
  void (*hash_texts)(const KeyHash&, const Group&, uint64_t* hashes);
  void (*hash_numbers)(const KeyHash&, uint64_t* numbers);
};

#define MLPBANK_HASHES_FOR_CPU(name, target)                                            \
  target void name##_texts(const KeyHash& hash, const Group& group, uint64_t* hashes) { \
    hash_texts(hash, group, hashes);                                                    \
  }                                                                                     \
  target void name##_numbers(const KeyHash& hash, uint64_t* numbers) {                  \
    hash_numbers(hash, numbers);                                                        \
  }                                                                                     \
  constexpr ForCpu name = {&name##_texts, &name##_numbers};

MLPBANK_HASHES_FOR_CPU(plain, )
#if defined(__x86_64__)
MLPBANK_HASHES_FOR_CPU(avx2, __attribute__((target("avx2"))))
// Clang takes vectors as wide as there are, and knows no such wish.
#  if defined(__clang__)
MLPBANK_HASHES_FOR_CPU(avx512, __attribute__((target("avx512f"))))
#  else
MLPBANK_HASHES_FOR_CPU(avx512, __attribute__((target("avx512f,prefer-vector-width=512"))))
#  endif
#endif
#undef MLPBANK_HASHES_FOR_CPU

const ForCpu& best_for_cpu() {
#if defined(__x86_64__)
  if (cpu_features().avx512) return avx512;
  if (cpu_features().avx2) return avx2;
#endif
  return plain;
}

// False: a text has too many words.
bool fill_texts(const KeyView* keys, Group& group) {
  group.least = kMostWords;
  group.most = 0;
  for (int i = 0; i < kMany; ++i) {
    const std::size_t count = KeyHash::num_words(keys[i].text);
    group.num_words[i] = count;
    group.least = std::min(group.least, count);
    group.most = std::max(group.most, count);
  }
  if (group.most > kMostWords) return false;
  for (int i = 0; i < kMany; ++i) {
    const std::string_view text = keys[i].text;
    const std::size_t last = group.num_words[i] - 1;
    for (std::size_t w = 0; w < last; ++w) group.words[w][i] = KeyHash::first_words(text, w);
    group.words[last][i] = KeyHash::last_word(text);
  }
  return true;
}

// Hashes whole groups, and returns how many keys these were.
int64_t hash_groups(const KeyHash& hash, bool numbers, const KeyView* keys, int64_t count,
                    uint64_t* hashes) {
  static const ForCpu& for_cpu = best_for_cpu();
  Group group = {};
  int64_t i = 0;
  for (; i + kMany <= count; i += kMany) {
    if (numbers) {
      for (int j = 0; j < kMany; ++j) hashes[i + j] = static_cast<uint64_t>(keys[i + j].number);
      for_cpu.hash_numbers(hash, hashes + i);
    } else if (fill_texts(keys + i, group)) {
      for_cpu.hash_texts(hash, group, hashes + i);
    } else {
      for (int j = 0; j < kMany; ++j) hashes[i + j] = hash(keys[i + j].text);
    }
  }
  return i;
}

}  // namespace

void hash_many(const KeyHash& hash, KeyType type, const KeyView* keys, int64_t count,
               uint64_t* hashes) {
  const bool numbers = type == KeyType::number;
  int64_t i = 0;
  if (hash.seeded && count >= kMany) i = hash_groups(hash, numbers, keys, count, hashes);
  for (; i < count; ++i) hashes[i] = numbers ? hash(keys[i].number) : hash(keys[i].text);
}

}  // namespace mlpbank
