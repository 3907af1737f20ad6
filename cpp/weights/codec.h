// Conversion of float32 to and from the types that weights are stored in. Rounds to nearest, ties
// to even, as IEEE 754 asks.
#pragma once

#include <cstdint>
#include <cstring>

#include "types.h"

namespace mlpbank {

inline uint32_t float_to_bits(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  return bits;
}
inline float bits_to_float(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

inline void encode(float f, float& to) { to = f; }
inline float decode(float f) { return f; }

inline void encode(float f, BFloat& to) {
  const uint32_t bits = float_to_bits(f);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  // Adding just under half of the last kept bit, or half when that bit is 1, carries exactly when
  // rounding goes up.
  const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  to.bits = static_cast<uint16_t>(nan ? bits >> 16 | 0x40 : rounded >> 16);
}
inline float decode(BFloat b) { return bits_to_float(static_cast<uint32_t>(b.bits) << 16); }

inline void encode(float f, Half& to) {
  const uint32_t bits = float_to_bits(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00 | (magnitude >> 13 & 0x3ff);  // NaN, quiet, with what fits of its payload
  } else if (magnitude >= 0x477ff000) {
    half = 0x7c00;  // from 65520 on: infinity
  } else if (magnitude < 0x38800000) {
    // Below 2^-14 the result is subnormal: adding 1/2 leaves the sum's last bit at 2^-24, so the
    // addition rounds.
    half = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000;
  } else {
    half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  }
  to.bits = static_cast<uint16_t>(sign | half);
}
inline float decode(Half h) {
  const uint32_t magnitude = h.bits & 0x7fff;
  const float scaled = bits_to_float(magnitude << 13) * 0x1p112f;
  const uint32_t special = magnitude >= 0x7c00 ? 0x7f800000 : 0;
  return bits_to_float(float_to_bits(scaled) | special |
                       static_cast<uint32_t>(h.bits & 0x8000) << 16);
}

// int8: the nearest integer of a value that the caller has divided by its scale, |f| <= 127. Adding
// 1.5 * 2^23 rounds.
inline void encode(float f, int8_t& to) {
  to = static_cast<int8_t>((f + 12582912.0f) - 12582912.0f);
}
inline float decode(int8_t q) { return q; }

}  // namespace mlpbank
