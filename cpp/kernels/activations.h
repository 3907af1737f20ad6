// Activations over the vectors of simd.h. Every instruction set runs the same operations in the
// same order, so AVX2 and AVX-512 give the same bits. None uses an approximate reciprocal. Their
// errors over all floats are in docs/activations.md.
//
//   Vec f(Vec)            one value by its own: relu, sigmoid, ...
//   over_vectors<f>       in place over values; for quartics on segments see piecewise.h
//   activate_vectors      over_vectors of the activation, by the list in types.h
//   activate_row          a row of outputs       activate_columns      columns of outputs
//
// A new activation is one function here and its line in types.h.
#pragma once

#include "kernels/kernel.h"
#include "kernels/piecewise.h"
#include "kernels/simd.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

inline Vec unchanged(Vec x) { return x; }

// max(0, x), its operands in the order that keeps a NaN.
inline Vec relu(Vec x) { return max_keep_nan(broadcast(0.0f), x); }

// The slope is PyTorch's default.
inline Vec leaky_relu(Vec x) { return max_keep_nan(mul(broadcast(0.01f), x), x); }

// x, or exp(x) - 1 where x is negative, which below -20 is -1. x = n ln2 + r with |r| <= ln2 / 2;
// n is so small that one product with ln2 does. exp(x) - 1 = 2^n expm1(r) + (2^n - 1), which is
// accurate relative to the result also near 0. expm1(r) = r + r^2 q(r), q the minimax polynomial
// of degree 4 for the relative error (by linear programming in float64, coefficients rounded one
// after the other; 0.3 * 2^-24).
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

// 2^32 exp(x) for -104 <= x <= 20. The factor keeps results at full precision that would be
// subnormal. x = k ln2 + r with k a multiple of 1/8 and |r| <= ln2 / 16: Cody and Waite's
// reduction, ln2 in two parts, and a table of 2^(j/8) as P. T. P. Tang has it (ACM TOMS 15, 1989).
// exp(r) = 1 + r + r^2 (c2 + c3 r), minimax as above; 0.4 * 2^-24.
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

// exp(x) / (1 + exp(x)), which from 20 on is 1 and below -104 is 0. The division takes most of the
// time; what replaces it takes longer (docs/internals.md).
inline Vec sigmoid(Vec x) {
  const Vec e = exp_scaled(max_keep_nan(broadcast(-104.0f), min_keep_nan(broadcast(20.0f), x)));
  return div(e, add(e, broadcast(0x1p32f)));
}

// log(1 + exp(x)) = max(0, x) + log1p(e), e = exp(-|x|). log1p(e) = e g(e), g the minimax
// polynomial of degree 8 on 0 <= e <= 1 (as above; 1.0 * 2^-24).
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

// Softmax of kLanes columns: output o of each is at values + o * stride. Inputs are shifted by
// their maximum, so large ones do no harm. The sum runs over the outputs in ascending order, as in
// softmax_row, so both give the same bits.
inline void softmax_columns(float* values, int64_t outputs, int64_t stride) {
  Vec largest = load(values);
  for (int64_t o = 1; o < outputs; ++o) largest = max_keep_nan(largest, load(values + o * stride));
  Vec sum = broadcast(0.0f);
  for (int64_t o = 0; o < outputs; ++o) {
    const Vec e = exp_shifted(load(values + o * stride), largest);
    sum = add(sum, e);
    store(values + o * stride, e);
  }
  for (int64_t o = 0; o < outputs; ++o) {
    store(values + o * stride, div(load(values + o * stride), sum));
  }
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
  for (int64_t o = 0; o < outputs; o += kLanes) {
    store(values + o, div(load(values + o), broadcast(sum)));
  }
}

// In place over n values, n a multiple of kLanes. Two, four or eight vectors in one step of the
// loop were no faster.
template <Vec (*Function)(Vec)>
inline void over_vectors(float* values, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(values + i, Function(load(values + i)));
}

// Whether this is the stage of the activation.
__attribute__((always_inline)) inline bool is_at(Stage stage, Activation activation) {
#define MLPBANK_OR_IS(name, its_stage, method) \
  || (stage == Stage::its_stage && activation == Activation::name)
  return false MLPBANK_ACTIVATIONS(MLPBANK_OR_IS);
#undef MLPBANK_OR_IS
}

// Activations of single values, in place over n values, n a multiple of kLanes. Not inlined: a call
// for each tile is cheap, its code in each tile is not. docs/activations.md has what each costs.
__attribute__((noinline)) void activate_vectors(Activation activation, float* values, int64_t n) {
  switch (activation) {
#define MLPBANK_CASE(name, stage, method)      \
  case Activation::name:                       \
    if (Stage::stage != Stage::values) return; \
    return over_vectors<method>(values, n);
    MLPBANK_ACTIVATIONS(MLPBANK_CASE)
#undef MLPBANK_CASE
  }
}

__attribute__((noinline)) void activate_row_now(Activation activation, float* values,
                                                int64_t outputs) {
  if (is_at(Stage::row, activation)) return softmax_row(values, outputs);
  activate_vectors(activation, values, (outputs + kLanes - 1) / kLanes * kLanes);
}

__attribute__((noinline)) void activate_columns_now(Activation activation, float* values,
                                                    int64_t outputs, int64_t columns) {
  if (!is_at(Stage::row, activation)) {
    return activate_vectors(activation, values, outputs * columns);
  }
  for (int64_t c = 0; c < columns; c += kLanes) softmax_columns(values + c, outputs, columns);
}

// What the tiles have not done, over one row of outputs, which has room for whole vectors.
inline void activate_row(Activation activation, float* values, int64_t outputs) {
  if (!is_at(Stage::tile, activation)) activate_row_now(activation, values, outputs);
}

// The same over `columns` columns of outputs, a multiple of kLanes.
inline void activate_columns(Activation activation, float* values, int64_t outputs,
                             int64_t columns) {
  if (!is_at(Stage::tile, activation)) activate_columns_now(activation, values, outputs, columns);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
