// Activations over the vector type of simd.h. Every instruction set runs the same operations in the same order, so
// AVX2 and AVX-512 give the same bits; nothing here uses an approximate reciprocal.
//
// A new activation is one function here, one line in `apply`, and the entries that CONTRIBUTING.md lists.
#pragma once

#include "kernel.h"
#include "simd.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

inline Vec float_bits(uint32_t pattern) {
  float f;
  memcpy(&f, &pattern, sizeof f);
  return broadcast(f);
}

// max(0, x) with the operands in the order that hands a NaN through.
inline Vec relu(Vec x) { return max_keep_nan(broadcast(0.0f), x); }

// exp(x) - 1 for |x| <= 20, accurate relative to the result also near 0.
// x = n ln2 + r with |r| <= ln2/2 (Cody and Waite's two-part ln2), exp(x) - 1 = 2^n expm1(r) + (2^n - 1).
// The polynomial is the Taylor series to r^7: its next term is below 2^-28 relative on that interval.
inline Vec expm1_small(Vec x) {
  const Vec shifter = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
  const Vec shifted = fma(x, broadcast(1.44269504f), shifter);
  const Vec n = sub(shifted, shifter);
  Vec r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec p = broadcast(1.0f / 5040);
  p = fma(p, r, broadcast(1.0f / 720));
  p = fma(p, r, broadcast(1.0f / 120));
  p = fma(p, r, broadcast(1.0f / 24));
  p = fma(p, r, broadcast(1.0f / 6));
  p = fma(p, r, broadcast(0.5f));
  p = fma(mul(r, r), p, r);
  const Vec two_n = int_add(int_shift_left_23(shifted), float_bits(0x3f800000));
  return fma(p, two_n, sub(two_n, broadcast(1.0f)));
}

// tanh(x) = expm1(2|x|) / (expm1(2|x|) + 2) with the sign of x: one formula without cancellation at either end.
// From |x| = 9.01 on the float result is 1, so the argument may be clamped at 10. Maximum error 2.2 ULP.
inline Vec tanh(Vec x) {
  const Vec sign = bit_and(x, float_bits(0x80000000));
  const Vec magnitude = min_keep_nan(broadcast(10.0f), bit_and(x, float_bits(0x7fffffff)));
  const Vec e = expm1_small(add(magnitude, magnitude));
  return bit_or(div(e, add(e, broadcast(2.0f))), sign);
}

template <Vec (*Function)(Vec)>
inline void apply_function(float* values, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(values + i, Function(load(values + i)));
}

// In place over n values, n a multiple of kLanes. none and relu never come here: the tiles apply them in registers.
// The others run over what a layer has just written, which is still in L1: a call per layer keeps the tiles small.
inline void apply(Activation activation, float* values, int64_t n) {
  switch (activation) {
    case Activation::none:
    case Activation::relu:
      return;
    case Activation::tanh:
      return apply_function<tanh>(values, n);
  }
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
