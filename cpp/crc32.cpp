#include "crc32.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#  include "cpu_x86.h"
#  include <immintrin.h>
#endif

namespace mlpbank {
namespace {

constexpr uint32_t kPolynomial = 0xedb88320u;  // bits in reverse: bit 31 is the factor of x^0

constexpr uint32_t times_x(uint32_t rest) {
  return (rest >> 1) ^ ((rest & 1) != 0 ? kPolynomial : 0);
}

// kTables[k][b] is the remainder of byte b with k bytes of zeros behind it, so that eight bytes
// take eight look-ups that do not wait for each other ("slicing by 8", Kounavis and Berry 2005).
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit) rest = times_x(rest);
    tables[0][byte] = rest;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const uint32_t shorter = tables[k - 1][byte];
      tables[k][byte] = (shorter >> 8) ^ tables[0][shorter & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

// The remainder after `size` more bytes, without the inversions at both ends.
uint32_t by_tables(const uint8_t* data, std::size_t size, uint32_t rest) {
  for (; size >= 8; data += 8, size -= 8) {
    uint64_t word;
    std::memcpy(&word, data, 8);  // little-endian, as all machines that mlpbank is built for
    word ^= rest;
    rest = 0;
    for (std::size_t i = 0; i < 8; ++i) rest ^= kTables[7 - i][word >> (8 * i) & 0xff];
  }
  for (; size > 0; ++data, --size) rest = (rest >> 8) ^ kTables[0][(rest ^ *data) & 0xff];
  return rest;
}

#if defined(__x86_64__)

// The remainder of x^power, as a factor of a product whose bits are in reverse.
constexpr uint64_t factor(int power) {
  uint32_t rest = 1u << 31;
  for (int i = 0; i < power; ++i) rest = times_x(rest);
  return uint64_t{rest} << 1;
}

// Folding (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", Intel
// 2009): 16 bytes that stand `bits` bits before others are replaced by 16 bytes at the place of
// these that have the same remainder. The first eight bytes are 64 bits further away.
constexpr int kLanes = 8;  // of 16 bytes, which do not wait for each other
constexpr std::size_t kStep = 16 * kLanes;

struct Factors {
  uint64_t first, second;  // of the first and of the last eight bytes
};

constexpr Factors over(int bits) { return {factor(bits + 32), factor(bits - 32)}; }

__attribute__((target("pclmul,sse2"))) inline __m128i fold(__m128i lane, __m128i factors,
                                                           __m128i onto) {
  const __m128i first = _mm_clmulepi64_si128(lane, factors, 0x00);
  const __m128i second = _mm_clmulepi64_si128(lane, factors, 0x11);
  return _mm_xor_si128(_mm_xor_si128(first, second), onto);
}

inline __m128i load(const uint8_t* data) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data));
}

inline __m128i vector_of(Factors factors) {
  return _mm_set_epi64x(static_cast<int64_t>(factors.second), static_cast<int64_t>(factors.first));
}

// `size` is at least kStep.
__attribute__((target("pclmul,sse2"))) uint32_t by_folding(const uint8_t* data, std::size_t size,
                                                           uint32_t rest) {
  __m128i lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = load(data + 16 * i);
  lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128(static_cast<int>(rest)));
  data += kStep;
  size -= kStep;
  constexpr Factors far = over(128 * kLanes), near = over(128);
  const __m128i step = vector_of(far);
  for (; size >= kStep; data += kStep, size -= kStep) {
#  pragma GCC unroll 8
    for (int i = 0; i < kLanes; ++i) lanes[i] = fold(lanes[i], step, load(data + 16 * i));
  }
  __m128i last = lanes[0];
  for (int i = 1; i < kLanes; ++i) last = fold(last, vector_of(near), lanes[i]);
  // What is left has the remainder of everything so far.
  uint8_t bytes[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), last);
  return by_tables(data, size, by_tables(bytes, 16, 0));
}

#endif

}  // namespace

uint32_t crc32_by_tables(const uint8_t* data, std::size_t size, uint32_t before) {
  return ~by_tables(data, size, ~before);
}

uint32_t crc32(const uint8_t* data, std::size_t size, uint32_t before) {
#if defined(__x86_64__)
  static const bool folds = cpu_features().carryless_multiplication;
  if (folds && size >= kStep) return ~by_folding(data, size, ~before);
#endif
  return crc32_by_tables(data, size, before);
}

}  // namespace mlpbank
