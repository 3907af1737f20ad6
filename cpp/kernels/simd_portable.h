// Any CPU, in the compiler's own vectors of 4 floats: SSE2 on x86-64, NEON on arm64. There may be
// no fused multiply-add, so fma rounds the product and then the sum, and results can differ from
// the other instruction sets by rounding. 16 registers; a panel is four vectors.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels/simd_memory_table.h"
#include "types.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

constexpr int kLanes = 4;
constexpr int64_t kRowsOutputs[] = {0, 8, 4, 2};  // 8 accumulators, 3 inputs, 1 weight, 1 product
constexpr int kOutputsPanels[] = {0, 1, 1};       // 8 accumulators, 2 inputs, 1 weight, 1 product
constexpr int kModelsRows = 1;                    // 8 accumulators
constexpr bool kTwoVectorTile = false;
constexpr bool kActivateTiles = false;
constexpr bool kTablesInRegisters = false;

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t Uint4 __attribute__((vector_size(16)));
struct Vec {
  Float4 v;
};
inline Uint4 bits(Vec a) { return (Uint4)a.v; }
inline Vec from_bits(Uint4 i) { return {(Float4)i}; }

inline Vec load(const float* p) {
  Vec a;
  memcpy(&a, p, sizeof a);
  return a;
}
inline void store(float* p, Vec a) { memcpy(p, &a, sizeof a); }
inline void store_first(float* p, Vec a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}
inline Vec broadcast(float s) { return {Float4{s, s, s, s}}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
// In double the product is exact, so only the sum rounds twice.
inline Vec fma_once(Vec a, Vec b, Vec c) {
  typedef double Double4 __attribute__((vector_size(32)));
  const Double4 left = __builtin_convertvector(a.v, Double4);
  const Double4 right = __builtin_convertvector(b.v, Double4);
  const Double4 sum = left * right + __builtin_convertvector(c.v, Double4);
  return {__builtin_convertvector(sum, Float4)};
}
inline Vec add(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec fms(Vec a, Vec b, Vec c) { return {a.v * b.v - c.v}; }
inline Vec div(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec pick(Int4 mask, Vec yes, Vec no) {
  return from_bits(((Uint4)mask & bits(yes)) | (~(Uint4)mask & bits(no)));
}
inline Vec min_keep_nan(Vec limit, Vec a) { return pick(limit.v < a.v, limit, a); }
inline Vec max_keep_nan(Vec limit, Vec a) { return pick(limit.v > a.v, limit, a); }
inline Vec bit_and(Vec a, Vec b) { return from_bits(bits(a) & bits(b)); }
inline Vec min_magnitude(Vec limit, Vec a) {
  const Vec magnitude = from_bits(bits(a) & 0x7fffffff);
  return pick(magnitude.v < limit.v, magnitude, limit);
}
inline Vec minus_min_magnitude(Vec limit, Vec a) {
  return from_bits(bits(min_magnitude(limit, a)) | 0x80000000);
}
inline Vec replace_negative(Vec x, Vec by) { return pick(x.v < 0.0f, by, x); }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return from_bits(bits(magnitude) | (bits(sign) & 0x80000000));
}
inline Vec int_add(Vec a, Vec b) { return from_bits(bits(a) + bits(b)); }
inline Vec int_sub(Vec a, Vec b) { return from_bits(bits(a) - bits(b)); }
template <int N>
inline Vec int_shift_left(Vec a) {
  return from_bits(bits(a) << N);
}
template <int N>
inline Vec int_shift_right(Vec a) {
  return from_bits(bits(a) >> N);
}

// Spelled out: GCC 11 has no __builtin_shufflevector, and each of these is one instruction as well.
inline Vec zip_low(Vec a, Vec b) { return {Float4{a.v[0], b.v[0], a.v[1], b.v[1]}}; }
inline Vec zip_high(Vec a, Vec b) { return {Float4{a.v[2], b.v[2], a.v[3], b.v[3]}}; }
inline Vec zip_low_pairs(Vec a, Vec b) { return {Float4{a.v[0], a.v[1], b.v[0], b.v[1]}}; }
inline Vec zip_high_pairs(Vec a, Vec b) { return {Float4{a.v[2], a.v[3], b.v[2], b.v[3]}}; }
template <int N>
inline Vec load_quads(const float* p, int64_t) {
  Vec a = {};
  memcpy(&a, p, N * sizeof(float));
  return a;
}
template <int N>
inline void store_quads(float* p, int64_t, Vec a) {
  memcpy(p, &a, N * sizeof(float));
}

inline Vec load(const BFloat* p) {
  return from_bits(Uint4{p[0].bits, p[1].bits, p[2].bits, p[3].bits} << 16);
}
// Exponent and mantissa move to their places in a float32. Multiplying by 2^112 corrects the
// exponent's offset, also of subnormals. Infinity and NaN get their exponent back.
inline Vec load(const Half* p) {
  const Uint4 half = {p[0].bits, p[1].bits, p[2].bits, p[3].bits};
  const Vec magnitude = from_bits((half & 0x7fff) << 13);
  const Vec scaled = {magnitude.v * 0x1p112f};
  const Uint4 special = (Uint4)(scaled.v >= 65536.0f) & 0x7f800000;
  return from_bits(bits(scaled) | special | (half & 0x8000) << 16);
}
inline Vec load(const int8_t* p) {
  return {Float4{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]),
                 static_cast<float>(p[3])}};
}

inline Vec power(const Powers& table, Vec index, Vec) {
  const Uint4 j = bits(index) & 7;
  const Uint4 factor = {table.word[j[0]], table.word[j[1]], table.word[j[2]], table.word[j[3]]};
  return int_add(from_bits(factor), int_shift_left<20>(index));
}

struct Row {
  Vec word[4];
};
struct Index {
  alignas(32) uint32_t row[kLanes];
};
inline void set_index(Index& to, Vec segment) {
  const Uint4 row = bits(segment) & 31;
  memcpy(to.row, &row, sizeof row);
}
inline Row lookup(const Table& table, const Index& index) {
  const auto word = [&](int c) {
    return from_bits(Uint4{table.row[index.row[0]][c], table.row[index.row[1]][c],
                           table.row[index.row[2]][c], table.row[index.row[3]][c]});
  };
  return {{word(0), word(1), word(2), word(3)}};
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
