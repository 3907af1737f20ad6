// KeyHash: many int keys at once, in a loop that compilers make vectors of.
#include "bank/hash.h"

#if defined(__x86_64__)
#  include "cpu_x86.h"
#endif

namespace mlpbank {

void KeyHash::hash_plain(const KeyHash& hash, uint64_t* keys) {
  for (int i = 0; i < kMany; ++i) keys[i] = hash.sip(keys[i]);
}

#if defined(__x86_64__)

__attribute__((target("avx2"))) void KeyHash::hash_avx2(const KeyHash& hash, uint64_t* keys) {
  for (int i = 0; i < kMany; ++i) keys[i] = hash.sip(keys[i]);
}

// Clang takes vectors as wide as there are, and knows no such wish.
#  if defined(__clang__)
#    define MLPBANK_AVX512 "avx512f"
#  else
#    define MLPBANK_AVX512 "avx512f,prefer-vector-width=512"
#  endif

__attribute__((target(MLPBANK_AVX512))) void KeyHash::hash_avx512(const KeyHash& hash,
                                                                  uint64_t* keys) {
  for (int i = 0; i < kMany; ++i) keys[i] = hash.sip(keys[i]);
}

#endif

void KeyHash::hash_many(uint64_t* keys) const {
#if defined(__x86_64__)
  static auto* const hash = cpu_features().avx512 ? &hash_avx512
                            : cpu_features().avx2 ? &hash_avx2
                                                  : &hash_plain;
  hash(*this, keys);
#else
  hash_plain(*this, keys);
#endif
}

}  // namespace mlpbank
