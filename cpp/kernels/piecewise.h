// Activations as quartics on 32 segments of |x|, without division: tanh, gelu, gelu_tanh and silu.
//
//     |x|   0    segment 0    segment 1   ...   segment 31    limit
//           |----------------|----------|------|------------|  beyond: as at the limit
//
// A segment's coefficients are a row of a table. Where registers hold the table (AVX-512), four
// permutations find the rows of 16 values. Before and after, multiply-adds keep both vector units
// busy, so what counts is the number of operations. docs/internals.md has what else was tried.
#pragma once

#include "kernels/piecewise_tables.h"
#include "kernels/simd.h"
#include "kernels/stream.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// c0 + a (c1 + v (c2 + v (c3 + v c4)))
inline Vec quartic(const Row& row, Vec a, Vec v) {
  Vec p = fma_once(row.word[3], v, int_shift_left<16>(row.word[3]));
  p = fma_once(p, v, row.word[2]);
  p = fma_once(p, v, row.word[1]);
  return fma_once(p, a, row.word[0]);
}

// Segments that grow with |x|: three bits of the mantissa and two of the exponent of a + offset.
inline Vec log_segment(Vec a, float offset) {
  return int_shift_right<20>(add(a, broadcast(offset)));
}
// Segments of equal width: adding 1.5 * 2^23 leaves the rounded number in the lowest bits.
inline Vec linear_segment(Vec a, float per_unit) {
  return fma(a, broadcast(per_unit), broadcast(12582912.0f));
}

// From |x| = 9.02 on the result is 1 in magnitude. Powers of a - 1.5 instead of a keep what cancels
// small where a is between 1 and 3, for one operation more (docs/internals.md, "Kernels").
struct Tanh {
  static constexpr Table table = Table(kTanhRows);
  static Vec clamped(Vec x) {
    return min_keep_nan(broadcast(9.02f), bit_and(x, float_bits(0x7fffffff)));
  }
  static Vec segment(Vec x) { return log_segment(clamped(x), 0.7f); }
  static Vec value(const Row& row, Vec x) {
    const Vec a = clamped(x);
    return copy_sign(quartic(row, a, sub(a, broadcast(1.5f))), x);
  }
};

// gelu(x) = x Phi(x), Phi the normal distribution. What it lacks to max(0, x) is the same for x and
// -x and vanishes: x Phi(x) = max(0, x) - |x| Phi(-|x|). So NaN and infinity need no care beyond
// the maximum's. From 31 / 5.25 on the row is zero.
struct Gelu {
  static constexpr Table table = Table(kGeluRows);
  static Vec clamped(Vec x) { return min_magnitude(broadcast(31 / 5.25f), x); }
  static Vec segment(Vec x) { return linear_segment(clamped(x), 5.25f); }
  static Vec value(const Row& row, Vec x) {
    const Vec a = clamped(x);
    return add(max_keep_nan(broadcast(0.0f), x), quartic(row, a, a));
  }
};

// The same with (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 for Phi.
struct GeluTanh : Gelu {
  static constexpr Table table = Table(kGeluTanhRows);
};

// x / (1 + exp(-x)) = max(0, x) - |x| / (1 + exp(|x|)), zero from 20.5 on.
struct Silu {
  static constexpr Table table = Table(kSiluRows);
  static Vec clamped(Vec x) { return min_magnitude(broadcast(20.5f), x); }
  static Vec segment(Vec x) { return log_segment(clamped(x), 1.5f); }
  static Vec value(const Row& row, Vec x) {
    const Vec a = clamped(x);
    return add(max_keep_nan(broadcast(0.0f), x), quartic(row, a, a));
  }
};

// In place over n values, n a multiple of kLanes.
template <class Piecewise>
inline void over_vectors(const ActivationCall&, float* values, int64_t n) {
  if constexpr (kTablesInRegisters) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const Vec x = load(values + i);
      Index index;
      set_index(index, Piecewise::segment(x));
      store(values + i, Piecewise::value(lookup(Piecewise::table, index), x));
    }
  } else {
    // First all indices, then all rows. One at a time, each vector would wait for its index to come
    // back from memory.
    constexpr int64_t kVectors = 16;
    Index index[kVectors];
    for (; n > 0; n -= kVectors * kLanes, values += kVectors * kLanes) {
      const int64_t count = n < kVectors * kLanes ? n / kLanes : kVectors;
      for (int64_t i = 0; i < count; ++i) {
        set_index(index[i], Piecewise::segment(load(values + i * kLanes)));
      }
      for (int64_t i = 0; i < count; ++i) {
        const Row row = lookup(Piecewise::table, index[i]);
        store(values + i * kLanes, Piecewise::value(row, load(values + i * kLanes)));
      }
    }
  }
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
