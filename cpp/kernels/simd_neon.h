// NEON of ARM64, which every such CPU has: 4 floats, 32 registers; a panel is four vectors.
#pragma once

#include <arm_neon.h>
#include <string.h>

#include "kernels/simd_memory_table.h"
#include "types.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

constexpr int kLanes = 4;
constexpr int64_t kRowsOutputs[] = {0, 16, 8, 8};  // 24 accumulators + 3 inputs + 1 weight
constexpr int kOutputsPanels[] = {0, 4, 2};        // 16 accumulators + 2 inputs + weights
constexpr int kModelsRows = 3;                     // 24 accumulators + 3 inputs + 1 weight
constexpr bool kTwoVectorTile = false;
constexpr bool kActivateTiles = false;
constexpr bool kTablesInRegisters = false;

struct Vec {
  float32x4_t v;
};
inline uint32x4_t bits(Vec a) { return vreinterpretq_u32_f32(a.v); }
inline Vec from_bits(uint32x4_t i) { return {vreinterpretq_f32_u32(i)}; }

inline Vec load(const float* p) { return {vld1q_f32(p)}; }
inline void store(float* p, Vec a) { vst1q_f32(p, a.v); }
inline Vec broadcast(float s) { return {vdupq_n_f32(s)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline Vec fma_once(Vec a, Vec b, Vec c) { return fma(a, b, c); }
inline Vec add(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
// Not the negative of c - a * b, which has the other sign where both are equal.
inline Vec fms(Vec a, Vec b, Vec c) { return {vfmaq_f32(vnegq_f32(c.v), a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
// fmin and fmax order -0 before 0, and so would not keep `a`.
inline Vec min_keep_nan(Vec limit, Vec a) {
  return {vbslq_f32(vcltq_f32(limit.v, a.v), limit.v, a.v)};
}
inline Vec max_keep_nan(Vec limit, Vec a) {
  return {vbslq_f32(vcgtq_f32(limit.v, a.v), limit.v, a.v)};
}
inline Vec bit_and(Vec a, Vec b) { return from_bits(vandq_u32(bits(a), bits(b))); }
// Magnitudes are in the order of their bits, NaN last.
inline Vec min_magnitude(Vec limit, Vec a) {
  return from_bits(vminq_u32(bits(limit), bits({vabsq_f32(a.v)})));
}
inline Vec minus_min_magnitude(Vec limit, Vec a) {
  const uint32x4_t sign = vdupq_n_u32(0x80000000);
  return from_bits(vminq_u32(vorrq_u32(sign, bits(limit)), vorrq_u32(sign, bits(a))));
}
inline Vec replace_negative(Vec x, Vec by) { return {vbslq_f32(vcltzq_f32(x.v), by.v, x.v)}; }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return {vbslq_f32(vdupq_n_u32(0x80000000), sign.v, magnitude.v)};
}
inline Vec int_add(Vec a, Vec b) { return from_bits(vaddq_u32(bits(a), bits(b))); }
inline Vec int_sub(Vec a, Vec b) { return from_bits(vsubq_u32(bits(a), bits(b))); }
template <int N>
inline Vec int_shift_left(Vec a) {
  return from_bits(vshlq_n_u32(bits(a), N));
}
template <int N>
inline Vec int_shift_right(Vec a) {
  return from_bits(vshrq_n_u32(bits(a), N));
}

inline Vec zip_low(Vec a, Vec b) { return {vzip1q_f32(a.v, b.v)}; }
inline Vec zip_high(Vec a, Vec b) { return {vzip2q_f32(a.v, b.v)}; }
inline float64x2_t pairs(Vec a) { return vreinterpretq_f64_f32(a.v); }
inline Vec from_pairs(float64x2_t a) { return {vreinterpretq_f32_f64(a)}; }
inline Vec zip_low_pairs(Vec a, Vec b) { return from_pairs(vzip1q_f64(pairs(a), pairs(b))); }
inline Vec zip_high_pairs(Vec a, Vec b) { return from_pairs(vzip2q_f64(pairs(a), pairs(b))); }

template <int N>
inline Vec load_quads(const float* p, int64_t) {
  if constexpr (N == 4) return load(p);
  const float32x4_t two = vcombine_f32(vld1_f32(p), vdup_n_f32(0.0f));
  if constexpr (N == 2) return {two};
  return {vld1q_lane_f32(p + 2, two, 2)};
}
template <int N>
inline void store_quads(float* p, int64_t, Vec a) {
  if constexpr (N == 4) return store(p, a);
  vst1_f32(p, vget_low_f32(a.v));
  if constexpr (N == 3) vst1q_lane_f32(p + 2, a.v, 2);
}
inline void store_first(float* p, Vec a, int64_t n) {
  if (n == 1) return vst1q_lane_f32(p, a.v, 0);
  return n == 2 ? store_quads<2>(p, 0, a) : store_quads<3>(p, 0, a);
}

inline Vec load(const Half* p) {
  float16x4_t half;
  memcpy(&half, p, sizeof half);
  return {vcvt_f32_f16(half)};
}
inline Vec load(const BFloat* p) { return from_bits(vshll_n_u16(vld1_u16(&p->bits), 16)); }
inline Vec load(const int8_t* p) {
  uint32_t eight_bits;
  memcpy(&eight_bits, p, sizeof eight_bits);
  const int8x8_t bytes = vreinterpret_s8_u32(vset_lane_u32(eight_bits, vdup_n_u32(0), 0));
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))};
}

// The table is two registers, of which tbl takes byte 4 j + b for byte b of a lane.
inline Vec power(const Powers& table, Vec index, Vec) {
  const uint32x4_t j = vandq_u32(bits(index), vdupq_n_u32(7));
  const uint32x4_t bytes = vmlaq_n_u32(vdupq_n_u32(0x03020100), j, 0x04040404);
  const uint8x16x2_t words = {{vreinterpretq_u8_u32(vld1q_u32(table.word)),
                               vreinterpretq_u8_u32(vld1q_u32(table.word + 4))}};
  const uint8x16_t factor = vqtbl2q_u8(words, vreinterpretq_u8_u32(bytes));
  return int_add(from_bits(vreinterpretq_u32_u8(factor)), int_shift_left<20>(index));
}

// Each lane loads its row, and then the rows are transposed. The table would fill all registers.
struct Row {
  Vec word[4];
};
struct Index {
  uint32_t offset[kLanes];  // bytes from the table's start
};
inline void set_index(Index& to, Vec segment) {
  const uint32x4_t offset = vshlq_n_u32(bits(segment), 4);
  vst1q_u32(to.offset, vandq_u32(offset, vdupq_n_u32(31 * 16)));
}
inline Row lookup(const Table& table, const Index& index) {
  const auto row = [&](int lane) {
    const auto* start = reinterpret_cast<const char*>(table.row);
    return from_bits(vld1q_u32(reinterpret_cast<const uint32_t*>(start + index.offset[lane])));
  };
  const Vec low01 = zip_low(row(0), row(1)), high01 = zip_high(row(0), row(1));
  const Vec low23 = zip_low(row(2), row(3)), high23 = zip_high(row(2), row(3));
  return {{zip_low_pairs(low01, low23), zip_high_pairs(low01, low23), zip_low_pairs(high01, high23),
           zip_high_pairs(high01, high23)}};
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
