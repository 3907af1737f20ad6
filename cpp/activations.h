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

// exp(x) = 2^n (1 + expm1(r)) with x = n ln2 + r and |r| <= ln2 / 2: Cody and Waite's reduction, ln2 in two parts.
struct ExpParts {
  Vec shifted;   // n in the low bits of the mantissa
  Vec expm1_r;
};

// expm1(r) = r + r^2 q(r), q the minimax polynomial of degree 4 for the relative error of expm1 on |r| <= 0.3466 (by linear
// programming in float64; 2^-26 relative).
inline ExpParts exp_parts(Vec x) {
  const Vec shifter = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = fma(x, broadcast(1.44269504f), shifter);
  const Vec n = sub(shifted, shifter);
  Vec r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec p = broadcast(0.0013882520f);
  p = fma(p, r, broadcast(0.0083665190f));
  p = fma(p, r, broadcast(0.041667200f));
  p = fma(p, r, broadcast(0.16666544f));
  p = fma(p, r, broadcast(0.49999998f));
  return {shifted, fma(mul(r, r), p, r)};
}

// exp(x) - 1 for |x| <= 25, accurate relative to the result also near 0: 2^n expm1(r) + (2^n - 1).
inline Vec expm1_small(Vec x) {
  const ExpParts e = exp_parts(x);
  const Vec two_n = int_add(int_shift_left_23(e.shifted), float_bits(0x3f800000));
  return fma(e.expm1_r, two_n, sub(two_n, broadcast(1.0f)));
}

// exp(x) for x <= 0, down to subnormal results: scaled by 2^(n + 64), which is exact, and then by 2^-64. Below -104 it
// is 0.
inline Vec exp_nonpositive(Vec x) {
  const ExpParts e = exp_parts(max_keep_nan(broadcast(-104.0f), x));
  const Vec two_n = int_add(int_shift_left_23(e.shifted), float_bits((127u + 64u) << 23));
  return mul(mul(add(broadcast(1.0f), e.expm1_r), two_n), broadcast(0x1p-64f));
}

inline Vec magnitude(Vec x) { return bit_and(x, float_bits(0x7fffffff)); }
inline Vec minus_magnitude(Vec x) { return bit_or(x, float_bits(0x80000000)); }

// tanh(x) = expm1(2|x|) / (expm1(2|x|) + 2) with the sign of x: one formula without cancellation at either end.
// From |x| = 9.02 on the float result is 1, so the argument may be clamped at 10.
inline Vec tanh(Vec x) {
  const Vec a = min_keep_nan(broadcast(10.0f), magnitude(x));
  const Vec e = expm1_small(add(a, a));
  return bit_or(div(e, add(e, broadcast(2.0f))), bit_and(x, float_bits(0x80000000)));
}

// 1 / (1 + exp(-x)), for negative x as exp(x) / (1 + exp(x)): no overflow, no cancellation.
inline Vec sigmoid(Vec x) {
  const Vec e = exp_nonpositive(minus_magnitude(x));
  return div(where_negative(x, e, broadcast(1.0f)), add(broadcast(1.0f), e));
}

inline Vec leaky_relu(Vec x) { return max_keep_nan(mul(broadcast(0.01f), x), x); }

// x, or exp(x) - 1 where x is negative; below -20 that is -1.
inline Vec elu(Vec x) {
  const Vec negative = max_keep_nan(broadcast(-20.0f), min_keep_nan(broadcast(0.0f), x));
  return where_negative(x, expm1_small(negative), x);
}

// log(1 + exp(x)) = max(x, 0) + log1p(e), e = exp(-|x|). log1p(e) = 2 atanh(s), s = e / (2 + e) <= 1/3, by its series to
// s^15, whose next term is below 2^-29 relative.
inline Vec softplus(Vec x) {
  const Vec e = exp_nonpositive(minus_magnitude(x));
  const Vec s = div(e, add(broadcast(2.0f), e));
  const Vec u = mul(s, s);
  Vec p = broadcast(1.0f / 15);
  p = fma(p, u, broadcast(1.0f / 13));
  p = fma(p, u, broadcast(1.0f / 11));
  p = fma(p, u, broadcast(1.0f / 9));
  p = fma(p, u, broadcast(1.0f / 7));
  p = fma(p, u, broadcast(1.0f / 5));
  p = fma(p, u, broadcast(1.0f / 3));
  const Vec s2 = add(s, s);
  return add(max_keep_nan(broadcast(0.0f), x), fma(mul(s2, u), p, s2));
}

// x / (1 + exp(-s)), the common form of silu and both gelus. Below -87 the result is 0 to within 1e-35; clamping x there
// and s at both ends keeps inf / inf and overflow away.
inline Vec times_sigmoid(Vec x, Vec s) {
  const Vec limit = broadcast(87.0f);
  const ExpParts e = exp_parts(min_keep_nan(limit, max_keep_nan(broadcast(-87.0f), sub(broadcast(0.0f), s))));
  const Vec exp_minus_s = int_add(add(broadcast(1.0f), e.expm1_r), int_shift_left_23(e.shifted));
  return div(x, add(broadcast(1.0f), exp_minus_s));
}

inline Vec silu(Vec x) { return times_sigmoid(max_keep_nan(broadcast(-87.0f), x), x); }

// x Phi(x), Phi the normal distribution, as x sigmoid(s), s = logit(Phi(x)) = x S(x^2). S is the minimax polynomial of
// degree 6 for the error of the whole on |x| <= 5.6 (by linear programming in float64; 0.6 * 2^-23). From there on the
// result is x or, within 2^-23, 0.
inline Vec gelu(Vec x) {
  x = max_keep_nan(broadcast(-5.6f), x);
  const Vec a = min_keep_nan(broadcast(5.6f), x);
  const Vec u = mul(a, a);
  Vec p = broadcast(3.6223790e-9f);
  p = fma(p, u, broadcast(-2.6748883e-7f));
  p = fma(p, u, broadcast(7.9501144e-6f));
  p = fma(p, u, broadcast(-1.1059246e-4f));
  p = fma(p, u, broadcast(-6.5740624e-5f));
  p = fma(p, u, broadcast(0.072667466f));
  p = fma(p, u, broadcast(1.5957692f));
  return times_sigmoid(x, mul(a, p));
}

// x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
inline Vec gelu_tanh(Vec x) {
  x = max_keep_nan(broadcast(-10.0f), x);  // from there on the result is 0 to within 1e-19
  const Vec a = min_keep_nan(broadcast(10.0f), x);
  const Vec p = fma(mul(a, a), broadcast(0.071354814f), broadcast(1.5957691f));
  return times_sigmoid(x, mul(a, p));
}

// Softmax of kLanes columns: output o of each at values + o * stride. Shifted by the maximum, so large inputs do no harm;
// the sum runs over the outputs in ascending order, as in softmax_row, so both give the same bits.
inline void softmax_columns(float* values, int64_t outputs, int64_t stride) {
  Vec largest = load(values);
  for (int64_t o = 1; o < outputs; ++o) largest = max_keep_nan(largest, load(values + o * stride));
  Vec sum = broadcast(0.0f);
  for (int64_t o = 0; o < outputs; ++o) {
    const Vec e = exp_nonpositive(sub(load(values + o * stride), largest));
    sum = add(sum, e);
    store(values + o * stride, e);
  }
  for (int64_t o = 0; o < outputs; ++o) store(values + o * stride, div(load(values + o * stride), sum));
}

// Softmax of one row, which has room for whole vectors.
inline void softmax_row(float* values, int64_t outputs) {
  float largest = values[0];
  for (int64_t o = 1; o < outputs; ++o) largest = values[o] > largest ? values[o] : largest;
  for (int64_t o = 0; o < outputs; o += kLanes) {
    store(values + o, exp_nonpositive(sub(load(values + o), broadcast(largest))));
  }
  float sum = 0.0f;
  for (int64_t o = 0; o < outputs; ++o) sum += values[o];
  for (int64_t o = 0; o < outputs; o += kLanes) store(values + o, div(load(values + o), broadcast(sum)));
}

// Over n values, n a multiple of kLanes. Cost on 1000 x 32-64-64-1 with 32 rows, beside relu, AVX-512: elu 28 %, tanh, silu
// and sigmoid 38 to 40 %, gelu_tanh 48 %, gelu 61 %, softplus 66 %. A reciprocal from an integer seed and two cubic
// Newton steps instead of the division made each 10 % slower.
template <Vec (*Function)(Vec)>
inline void apply_function(float* values, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(values + i, Function(load(values + i)));
}

// In place over n values, n a multiple of kLanes. These run over what a layer has just written, which is still in
// L1: a call per layer keeps the tiles small.
inline void apply(Activation activation, float* values, int64_t n) {
  switch (activation) {
    case Activation::none:
    case Activation::relu:     // the tiles apply it in registers
    case Activation::softmax:  // needs all outputs of a row: softmax_row, softmax_columns
      return;
    case Activation::tanh:
      return apply_function<tanh>(values, n);
    case Activation::sigmoid:
      return apply_function<sigmoid>(values, n);
    case Activation::leaky_relu:
      return apply_function<leaky_relu>(values, n);
    case Activation::elu:
      return apply_function<elu>(values, n);
    case Activation::gelu:
      return apply_function<gelu>(values, n);
    case Activation::gelu_tanh:
      return apply_function<gelu_tanh>(values, n);
    case Activation::silu:
      return apply_function<silu>(values, n);
    case Activation::softplus:
      return apply_function<softplus>(values, n);
  }
}

// Over one row of outputs, which has room for whole vectors.
inline void apply_row(Activation activation, float* values, int64_t outputs) {
  if (activation == Activation::softmax) return softmax_row(values, outputs);
  apply(activation, values, (outputs + kLanes - 1) / kLanes * kLanes);
}

// Over `columns` columns of outputs, a multiple of kLanes.
inline void apply_columns(Activation activation, float* values, int64_t outputs, int64_t columns) {
  if (activation != Activation::softmax) return apply(activation, values, outputs * columns);
  for (int64_t c = 0; c < columns; c += kLanes) softmax_columns(values + c, outputs, columns);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
