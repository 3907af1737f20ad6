// Activations over the vector type of simd.h. Every instruction set runs the same operations in the same order, so
// AVX2 and AVX-512 give the same bits; nothing here uses an approximate reciprocal. Their errors over all floats are in
// docs/activations.md.
//
// A new activation is one function here, one line in `apply`, and the entries that CONTRIBUTING.md lists.
#pragma once

#include "kernels/kernel.h"
#include "kernels/piecewise.h"
#include "kernels/simd.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// max(0, x) with the operands in the order that hands a NaN through.
inline Vec relu(Vec x) { return max_keep_nan(broadcast(0.0f), x); }

// The slope is PyTorch's default.
inline Vec leaky_relu(Vec x) { return max_keep_nan(mul(broadcast(0.01f), x), x); }

// x, or exp(x) - 1 where x is negative, which below -20 is -1. x = n ln2 + r with |r| <= ln2 / 2; n is so small that
// one product with ln2 does. exp(x) - 1 = 2^n expm1(r) + (2^n - 1), accurate relative to the result also near 0.
// expm1(r) = r + r^2 q(r), q the minimax polynomial of degree 4 for the relative error (by linear programming in
// float64, coefficients rounded one after the other; 0.3 * 2^-24).
inline Vec elu(Vec x) {
  const Vec negative = max_keep_nan(broadcast(-20.0f), min_keep_nan(broadcast(0.0f), x));
  const Vec shifter = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = fma(negative, broadcast(1.44269504f), shifter);
  const Vec r = fma(sub(shifted, shifter), broadcast(-0.693147182f), negative);
  Vec p = broadcast(0.0013882528f);
  p = fma(p, r, broadcast(0.008366527f));
  p = fma(p, r, broadcast(0.0416672f));
  p = fma(p, r, broadcast(0.16666543f));
  p = fma(p, r, broadcast(0.49999997f));
  p = fma(mul(r, r), p, r);
  const Vec two_n = int_add(int_shift_left<23>(shifted), float_bits(0x3f800000));
  // For positive x that is 0, for negative above x.
  return max_keep_nan(fma(p, two_n, sub(two_n, broadcast(1.0f))), x);
}

// 2^32 exp(x) for -104 <= x <= 20; the factor keeps results that are subnormal without it at full precision.
// x = k ln2 + r with k a multiple of 1/8 and |r| <= ln2 / 16: Cody and Waite's reduction, ln2 in two parts, and a table
// of 2^(j/8) as P. T. P. Tang has it (ACM TOMS 15, 1989). exp(r) = 1 + r + r^2 (c2 + c3 r), minimax as above;
// 0.4 * 2^-24.
constexpr uint32_t kPowerBits[8] = {0x4f800000, 0x4f8b95c2, 0x4f9837f0, 0x4fa5fed7,
                                    0x4fb504f3, 0x4fc5672a, 0x4fd744fd, 0x4feac0c7};
constexpr Powers kPowers = Powers(kPowerBits);  // 2^(32 + j/8)

inline Vec exp_scaled(Vec x) {
  const Vec shifter = broadcast(1572864.0f);  // 1.5 * 2^20: adding it rounds to a multiple of 1/8
  const Vec shifted = fma(x, broadcast(1.44269504f), shifter);
  const Vec k = sub(shifted, shifter);
  Vec r = fma(k, broadcast(-0.693359375f), x);
  r = fma(k, broadcast(2.12194440e-4f), r);
  const Vec scale = power(kPowers, shifted, k);
  const Vec p = fma(broadcast(0.16666858f), r, broadcast(0.50006455f));
  return fma(scale, fma(mul(p, r), r, r), scale);
}

// exp(x) / (1 + exp(x)), which from 20 on is 1 and below -104 is 0. The division holds this up (AVX-512: +34 % of
// relu's time), but a reciprocal from an integer seed and Newton's method takes longer (+36 %; AVX2 +34 % against
// +24 %), and so do divisions in a loop of their own (+43 %).
inline Vec sigmoid(Vec x) {
  const Vec e = exp_scaled(max_keep_nan(broadcast(-104.0f), min_keep_nan(broadcast(20.0f), x)));
  return div(e, add(e, broadcast(0x1p32f)));
}

// log(1 + exp(x)) = max(0, x) + log1p(e), e = exp(-|x|). log1p(e) = e g(e), g the minimax polynomial of degree 8 on
// 0 <= e <= 1 (as above; 1.0 * 2^-24).
inline Vec softplus(Vec x) {
  const Vec scaled = exp_scaled(minus_min_magnitude(broadcast(104.0f), x));
  const Vec e = mul(scaled, broadcast(0x1p-32f));
  Vec p = broadcast(0x1p-32f * 0.0052323262f);
  p = fma(p, e, broadcast(0x1p-32f * -0.029503772f));
  p = fma(p, e, broadcast(0x1p-32f * 0.078223564f));
  p = fma(p, e, broadcast(0x1p-32f * -0.13663042f));
  p = fma(p, e, broadcast(0x1p-32f * 0.19105908f));
  p = fma(p, e, broadcast(0x1p-32f * -0.24842955f));
  p = fma(p, e, broadcast(0x1p-32f * 0.33319092f));
  p = fma(p, e, broadcast(0x1p-32f * -0.49999493f));
  p = fma(p, e, broadcast(0x1p-32f));
  return fma(scaled, p, max_keep_nan(broadcast(0.0f), x));
}

// 2^32 exp(x - largest); the factor falls out when dividing by the sum.
inline Vec exp_shifted(Vec x, Vec largest) {
  return exp_scaled(max_keep_nan(broadcast(-104.0f), sub(x, largest)));
}

// Softmax of kLanes columns: output o of each at values + o * stride. Shifted by the maximum, so large inputs do no
// harm; the sum runs over the outputs in ascending order, as in softmax_row, so both give the same bits.
inline void softmax_columns(float* values, int64_t outputs, int64_t stride) {
  Vec largest = load(values);
  for (int64_t o = 1; o < outputs; ++o) largest = max_keep_nan(largest, load(values + o * stride));
  Vec sum = broadcast(0.0f);
  for (int64_t o = 0; o < outputs; ++o) {
    const Vec e = exp_shifted(load(values + o * stride), largest);
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
    store(values + o, exp_shifted(load(values + o), broadcast(largest)));
  }
  float sum = 0.0f;
  for (int64_t o = 0; o < outputs; ++o) sum += values[o];
  for (int64_t o = 0; o < outputs; o += kLanes) store(values + o, div(load(values + o), broadcast(sum)));
}

template <Vec (*Function)(Vec)>
inline void apply_function(float* values, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(values + i, Function(load(values + i)));
}

// In place over n values, n a multiple of kLanes. Not inlined: a call per tile is cheap, its code in every tile is not.
// Cost on 1000 x 32-64-64-1 with 32 rows beside relu, AVX-512 / AVX2 in percent: tanh 21 / 35, sigmoid 33 / 22,
// leaky_relu 2 / 3, elu 24 / 23, gelu and gelu_tanh 17 / 32, silu 19 / 34, softplus 41 / 40. Two, four or eight vectors
// side by side in one loop step did not make it less (sigmoid 34 to 41, softplus 58 to 62).
__attribute__((noinline)) void apply(Activation activation, float* values, int64_t n) {
  switch (activation) {
    case Activation::none:
    case Activation::relu:     // the tiles apply it in registers
    case Activation::softmax:  // needs all outputs of a row: softmax_row, softmax_columns
      return;
    case Activation::tanh:
      return apply_piecewise<Tanh>(values, n);
    case Activation::sigmoid:
      return apply_function<sigmoid>(values, n);
    case Activation::leaky_relu:
      return apply_function<leaky_relu>(values, n);
    case Activation::elu:
      return apply_function<elu>(values, n);
    case Activation::gelu:
      return apply_piecewise<Gelu>(values, n);
    case Activation::gelu_tanh:
      return apply_piecewise<GeluTanh>(values, n);
    case Activation::silu:
      return apply_piecewise<Silu>(values, n);
    case Activation::softplus:
      return apply_function<softplus>(values, n);
  }
}

// Whether the tiles apply it in registers.
inline bool in_tile(Activation activation) { return activation <= Activation::relu; }

__attribute__((noinline)) void apply_to_row(Activation activation, float* values, int64_t outputs) {
  if (activation == Activation::softmax) return softmax_row(values, outputs);
  apply(activation, values, (outputs + kLanes - 1) / kLanes * kLanes);
}

__attribute__((noinline)) void apply_to_columns(Activation activation, float* values, int64_t outputs,
                                                int64_t columns) {
  if (activation != Activation::softmax) return apply(activation, values, outputs * columns);
  for (int64_t c = 0; c < columns; c += kLanes) softmax_columns(values + c, outputs, columns);
}

// Over one row of outputs, which has room for whole vectors.
inline void apply_row(Activation activation, float* values, int64_t outputs) {
  if (!in_tile(activation)) apply_to_row(activation, values, outputs);
}

// Over `columns` columns of outputs, a multiple of kLanes.
inline void apply_columns(Activation activation, float* values, int64_t outputs, int64_t columns) {
  if (!in_tile(activation)) apply_to_columns(activation, values, outputs, columns);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
