// Activations over the vectors of simd.h. Every instruction set runs the same operations in the
// same order, so AVX2, AVX-512 and NEON give the same bits. None uses the CPU's approximate
// reciprocals. Their errors over all floats are in docs/activations.md.
//
//   Vec f(Vec)                 one value by its own: relu, sigmoid, ...
//   Vec f(Vec, Coefficients)   the same with parameters
//   over_vectors<f>       in place over values; for quartics on segments see piecewise.h
//   activate_vectors      over_vectors of the activation, by the list in types.h
//   activate_row          a row of outputs       activate_columns      columns of outputs
//
// A new activation is one function here and its line in types.h.
#pragma once

#include "kernels/piecewise.h"
#include "kernels/simd.h"
#include "kernels/stream.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

inline Vec unchanged(Vec x) { return x; }

// max(0, x), its operands in the order that keeps a NaN.
inline Vec relu(Vec x) { return max_keep_nan(broadcast(0.0f), x); }

// The parameters of an activation, see ActivationCall.
struct Coefficients {
  Vec first, second;
};

// x, or alpha x where x is negative.
inline Vec leaky_relu(Vec x, Coefficients alpha) {
  return replace_negative(x, mul(alpha.first, x));
}

// Between two bounds, which may be infinite.
inline Vec clip(Vec x, Coefficients low_high) {
  return min_keep_nan(low_high.second, max_keep_nan(low_high.first, x));
}
inline Vec relu6(Vec x) { return clip(x, {broadcast(0.0f), broadcast(6.0f)}); }

// alpha x + beta between 0 and 1.
inline Vec hardsigmoid(Vec x, Coefficients alpha_beta) {
  return clip(fma(alpha_beta.first, x, alpha_beta.second), {broadcast(0.0f), broadcast(1.0f)});
}

// x relu6(x + 3) / 6. A sixth of 6 rounds to 1.
inline Vec hardswish(Vec x) {
  const Vec above = max_keep_nan(broadcast(-3.0f), x);
  const Vec share = min_keep_nan(broadcast(6.0f), add(above, broadcast(3.0f)));
  return mul(mul(share, broadcast(1 / 6.0f)), above);
}

// x / (1 + |x|), which from 2^25 on is 1 in magnitude. A division takes longer than all of this: a
// first guess of the reciprocal from the bits of y = 1 + |x|, with the error e = 1 - guess y of at
// most 0.0505, times 1 / (1 - e) = 1 + e w(e); w minimax as below, 0.4 * 2^-24.
inline Vec softsign(Vec x) {
  const Vec inside = clip(x, {broadcast(-0x1p25f), broadcast(0x1p25f)});
  const Vec minus_y = sub(broadcast(-1.0f), bit_and(inside, float_bits(0x7fffffff)));
  const Vec guess = int_sub(float_bits(0xfef311c7), minus_y);
  const Vec e = fma(minus_y, guess, broadcast(1.0f));
  const Vec y = mul(inside, guess);
  Vec w = broadcast(1.0032214f);
  w = fma(w, e, broadcast(1.0032214f));
  w = fma(w, e, broadcast(0.9999979f));
  w = fma(w, e, broadcast(0.9999979f));
  // Near 1 the error of the polynomial may go beyond it.
  return clip(fma(mul(y, e), w, y), {broadcast(-1.0f), broadcast(1.0f)});
}

// expm1(r) = r t(r) with t(r) = 1 + r q(r) for |r| <= ln2 / 2, q the minimax polynomial of degree 4
// for the relative error (by linear programming in float64, coefficients rounded one after the
// other; 0.3 * 2^-24).
constexpr float kExpm1[] = {0.49999997f, 0.16666543f, 0.0416672f, 0.008366527f, 0.0013882528f};

// t(r) = expm1(r) / r.
inline Vec expm1_over(Vec r) {
  Vec t = fma(broadcast(kExpm1[4]), r, broadcast(kExpm1[3]));
  t = fma(t, r, broadcast(kExpm1[2]));
  t = fma(t, r, broadcast(kExpm1[1]));
  t = fma(t, r, broadcast(kExpm1[0]));
  return fma(t, r, broadcast(1.0f));
}

// 1.5 * 2^23: adding it rounds to an integer. Its lowest bits are those of an exponent of 0.
constexpr float kExponentShifter = 12582912.0f + 127.0f;

// scale (exp(x) - 1) for negative x; below -20 it is -scale. x = n ln2 + r with |r| <= ln2 / 2; n
// is so small that one product with ln2 does. exp(x) - 1 = 2^n expm1(r) + (2^n - 1), which is
// accurate relative to the result also near 0. The scale is a factor of t's coefficients, which do
// not depend on x: so the loop over vectors finds them ready. For other x the result is anything.
inline Vec negative_expm1(Vec x, Vec scale) {
  const Vec above = max_keep_nan(broadcast(-20.0f), x);
  const Vec shifter = broadcast(kExponentShifter);
  const Vec shifted = fma(above, broadcast(1.44269504f), shifter);
  const Vec r = fma(sub(shifted, shifter), broadcast(-0.693147182f), above);
  const Vec two_n = int_shift_left<23>(shifted);
  Vec t = mul(broadcast(kExpm1[4]), scale);
  t = fma(t, r, mul(broadcast(kExpm1[3]), scale));
  t = fma(t, r, mul(broadcast(kExpm1[2]), scale));
  t = fma(t, r, mul(broadcast(kExpm1[1]), scale));
  t = fma(t, r, mul(broadcast(kExpm1[0]), scale));
  t = fma(t, r, scale);
  return fma(mul(r, two_n), t, fms(two_n, scale, scale));
}

// x, or alpha (exp(x) - 1) where x is negative.
inline Vec elu(Vec x, Coefficients alpha) {
  return replace_negative(x, negative_expm1(x, alpha.first));
}

// x, or alpha (exp(x / alpha) - 1) where x is negative. As negative_expm1, but r is in units of
// alpha, so that also the smallest x lose nothing. The second coefficient is 1 / alpha.
inline Vec celu(Vec x, Coefficients coefficients) {
  const Vec alpha = coefficients.first, inverse = coefficients.second;
  const Vec above = max_keep_nan(mul(broadcast(-20.0f), alpha), x);
  const Vec shifter = broadcast(kExponentShifter);
  const Vec shifted = fma(above, mul(broadcast(1.44269504f), inverse), shifter);
  const Vec r = fma(sub(shifted, shifter), mul(broadcast(-0.693147182f), alpha), above);
  const Vec two_n = int_shift_left<23>(shifted);
  const Vec t = expm1_over(mul(r, inverse));
  return replace_negative(x, fma(mul(r, two_n), t, fms(two_n, alpha, alpha)));
}

// elu with G. Klambauer et al.'s alpha ("Self-normalizing neural networks", 2017), times a scale.
inline Vec selu(Vec x) {
  const Vec below = negative_expm1(x, broadcast(1.05070098f * 1.67326324f));
  return replace_negative(mul(broadcast(1.05070098f), x), below);
}

// exp(x) - 1, infinite above 88.72. As above, with ln2 in two parts. The last step doubles: so n
// may be 128. Every sum of zeros here is of -0 and the opposite of 0, which keeps the sign of -0.
inline Vec expm1(Vec x) {
  const Vec inside = clip(x, {broadcast(-20.0f), broadcast(89.0f)});
  const Vec shifter = broadcast(kExponentShifter - 1.0f);
  const Vec shifted = fma(inside, broadcast(1.44269504f), shifter);
  const Vec n = sub(shifted, shifter);
  Vec r = fma(n, broadcast(-0.693138123f), inside);
  r = fma(n, broadcast(-9.05800061e-6f), r);
  const Vec half = int_shift_left<23>(shifted);  // of 2^n
  const Vec y = fms(mul(r, half), expm1_over(r), sub(broadcast(0.5f), half));
  return add(y, y);
}

// 2^32 exp(x) for -104 <= x <= 20. The factor keeps results at full precision that would be
// subnormal. x = k ln2 + r with k a multiple of 1/8 and |r| <= ln2 / 16: Cody and Waite's
// reduction, ln2 in two parts, and a table of 2^(j/8) as P. T. P. Tang has it (ACM TOMS 15, 1989).
// exp(r) = 1 + r + r^2 (c2 + c3 r), minimax as above; 0.4 * 2^-24.
constexpr uint32_t kPowerBits[8] = {0x4f800000, 0x4f8b95c2, 0x4f9837f0, 0x4fa5fed7,
                                    0x4fb504f3, 0x4fc5672a, 0x4fd744fd, 0x4feac0c7};
constexpr Powers kPowers = Powers(kPowerBits);  // 2^(32 + j/8)
constexpr uint32_t kRootPowerBits[8] = {0x3f800000, 0x3f8b95c2, 0x3f9837f0, 0x3fa5fed7,
                                        0x3fb504f3, 0x3fc5672a, 0x3fd744fd, 0x3feac0c7};
constexpr Powers kRootPowers = Powers(kRootPowerBits);  // 2^(j/8)

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

// exp(x), infinite above 88.72. x = 2 k ln2 + r with k a multiple of 1/8 and |r| <= ln2 / 8. 2^k
// neither overflows nor underflows; exp(r) is multiplied by it twice. exp(r) = 1 + r + r^2 (c2 +
// c3 r + c4 r^2), minimax as above; 0.1 * 2^-24.
inline Vec exp(Vec x) {
  const Vec inside = max_keep_nan(broadcast(-104.0f), min_keep_nan(broadcast(89.0f), x));
  const Vec shifter = broadcast(1572864.0f);  // 1.5 * 2^20: adding it rounds to a multiple of 1/8
  const Vec shifted = fma(inside, broadcast(0.5f * 1.44269504f), shifter);
  const Vec k = sub(shifted, shifter);
  Vec r = fma(k, broadcast(2 * -0.693359375f), inside);
  r = fma(k, broadcast(2 * 2.12194440e-4f), r);
  const Vec root = power(kRootPowers, shifted, k);
  Vec p = fma(broadcast(0.041645046f), r, broadcast(0.16672099f));
  p = fma(p, r, broadcast(0.5000002f));
  p = fma(mul(p, r), r, r);
  return mul(fma(root, p, root), root);
}

// x tanh(log(1 + exp(x))) = x n / (n + 2) with n = exp(x) (exp(x) + 2). From 20 on that is x. exp
// as above; one product with ln2 does, since an error of exp(x) hardly counts far from 0. Where exp
// (x) is 2^-32, n is 2^-31, which is subtracted: so from there on the result is -0, as for -inf.
inline Vec mish(Vec x) {
  const Vec above = max_keep_nan(broadcast(-32 * 0.693147182f), x);
  const Vec inside = min_keep_nan(broadcast(20.0f), above);
  const Vec shifter = broadcast(1572864.0f);
  const Vec shifted = fma(inside, broadcast(1.44269504f), shifter);
  const Vec k = sub(shifted, shifter);
  const Vec r = fma(k, broadcast(-0.693147182f), inside);
  const Vec scale = power(kRootPowers, shifted, k);
  const Vec p = fma(broadcast(0.16666858f), r, broadcast(0.50006455f));
  const Vec e = fma(scale, fma(mul(p, r), r, r), scale);
  const Vec n = fms(e, add(e, broadcast(2.0f)), broadcast(0x1p-31f));
  return mul(above, div(n, add(n, broadcast(2.0f))));
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
inline void over_vectors(const ActivationCall&, float* values, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(values + i, Function(load(values + i)));
}
template <Vec (*Function)(Vec, Coefficients)>
inline void over_vectors(const ActivationCall& call, float* values, int64_t n) {
  const Coefficients coefficients = {broadcast(*call.first), broadcast(*call.second)};
  for (int64_t i = 0; i < n; i += kLanes)
    store(values + i, Function(load(values + i), coefficients));
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
__attribute__((noinline)) void activate_vectors(const ActivationCall& call, float* values,
                                                int64_t n) {
  switch (call.activation) {
#define MLPBANK_CASE(name, stage, method)      \
  case Activation::name:                       \
    if (Stage::stage != Stage::values) return; \
    return over_vectors<method>(call, values, n);
    MLPBANK_ACTIVATIONS(MLPBANK_CASE)
#undef MLPBANK_CASE
  }
}

__attribute__((noinline)) void activate_row_now(const ActivationCall& call, float* values,
                                                int64_t outputs) {
  if (is_at(Stage::row, call.activation)) return softmax_row(values, outputs);
  activate_vectors(call, values, (outputs + kLanes - 1) / kLanes * kLanes);
}

__attribute__((noinline)) void activate_columns_now(const ActivationCall& call, float* values,
                                                    int64_t outputs, int64_t columns) {
  if (!is_at(Stage::row, call.activation)) {
    return activate_vectors(call, values, outputs * columns);
  }
  for (int64_t c = 0; c < columns; c += kLanes) softmax_columns(values + c, outputs, columns);
}

// What the tiles have not done, over one row of outputs, which has room for whole vectors.
inline void activate_row(const ActivationCall& call, float* values, int64_t outputs) {
  if (!is_at(Stage::tile, call.activation)) activate_row_now(call, values, outputs);
}

// The same over `columns` columns of outputs, a multiple of kLanes.
inline void activate_columns(const ActivationCall& call, float* values, int64_t outputs,
                             int64_t columns) {
  if (!is_at(Stage::tile, call.activation)) activate_columns_now(call, values, outputs, columns);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
