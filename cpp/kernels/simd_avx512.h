// AVX-512 (F, DQ, BW, VL): 16 floats, 32 registers; a panel is one vector.
#pragma once

#include <immintrin.h>

#include "kernels/simd_x86.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

constexpr int kLanes = 16;
constexpr int64_t kRowsOutputs[] = {0, 16, 8, 8};  // 24 accumulators + 3 inputs + 1 weight
// 24 accumulators + 6 inputs + 1 weight.
constexpr int kOutputsPanels[] = {0, 4, 4, 4, 4, 4, 4, 2, 2};
constexpr int kModelsRows = 3;  // 24 accumulators + 3 inputs + 1 weight
constexpr bool kTwoVectorTile = true;
// Right after each tile, an activation runs beside the next tile's multiply-adds; tanh gains 3 %.
constexpr bool kActivateTiles = true;
constexpr bool kTablesInRegisters = true;

struct Vec {
  __m512 v;
};
inline __m512i bits(Vec a) { return _mm512_castps_si512(a.v); }
inline Vec from_bits(__m512i i) { return {_mm512_castsi512_ps(i)}; }

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void store_first(float* p, Vec a, int64_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v);
}
inline Vec broadcast(float s) { return {_mm512_set1_ps(s)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec fma_once(Vec a, Vec b, Vec c) { return fma(a, b, c); }
inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec fms(Vec a, Vec b, Vec c) { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec min_keep_nan(Vec limit, Vec a) { return {_mm512_min_ps(limit.v, a.v)}; }
inline Vec max_keep_nan(Vec limit, Vec a) { return {_mm512_max_ps(limit.v, a.v)}; }
inline Vec bit_and(Vec a, Vec b) { return from_bits(_mm512_and_si512(bits(a), bits(b))); }
// vrangeps does in one operation what else takes two.
inline Vec min_magnitude(Vec limit, Vec a) { return {_mm512_range_ps(a.v, limit.v, 0b1010)}; }
inline Vec minus_min_magnitude(Vec limit, Vec a) { return {_mm512_range_ps(a.v, limit.v, 0b1110)}; }
// vfixupimmps does in one operation what else takes two. For each class of numbers a digit says
// whether `by` stays (0) or x replaces it (1): from the lowest on both NaNs, 0, 1, -inf, inf,
// negative and positive ones.
inline Vec replace_negative(Vec x, Vec by) {
  return {_mm512_fixupimm_ps(by.v, x.v, _mm512_set1_epi32(0x10101111), 0)};
}
inline Vec copy_sign(Vec magnitude, Vec sign) {
  const __m512i mask = _mm512_set1_epi32(INT32_MIN);
  return from_bits(_mm512_ternarylogic_epi32(bits(magnitude), bits(sign), mask, 0xf8));
}
inline Vec int_add(Vec a, Vec b) { return from_bits(_mm512_add_epi32(bits(a), bits(b))); }
inline Vec int_sub(Vec a, Vec b) { return from_bits(_mm512_sub_epi32(bits(a), bits(b))); }
template <int N>
inline Vec int_shift_left(Vec a) {
  return from_bits(_mm512_slli_epi32(bits(a), N));
}
template <int N>
inline Vec int_shift_right(Vec a) {
  return from_bits(_mm512_srli_epi32(bits(a), N));
}

inline Vec zip_low(Vec a, Vec b) { return {_mm512_unpacklo_ps(a.v, b.v)}; }
inline Vec zip_high(Vec a, Vec b) { return {_mm512_unpackhi_ps(a.v, b.v)}; }
inline __m512d pairs(Vec a) { return _mm512_castps_pd(a.v); }
inline Vec zip_low_pairs(Vec a, Vec b) {
  return {_mm512_castpd_ps(_mm512_unpacklo_pd(pairs(a), pairs(b)))};
}
inline Vec zip_high_pairs(Vec a, Vec b) {
  return {_mm512_castpd_ps(_mm512_unpackhi_pd(pairs(a), pairs(b)))};
}
template <int N>
inline Vec load_quads(const float* p, int64_t stride) {
  const __m512 one = _mm512_castps128_ps512(load_quad<N>(p));
  const __m512 two = _mm512_insertf32x4(one, load_quad<N>(p + stride), 1);
  const __m512 three = _mm512_insertf32x4(two, load_quad<N>(p + 2 * stride), 2);
  return {_mm512_insertf32x4(three, load_quad<N>(p + 3 * stride), 3)};
}
template <int N>
inline void store_quads(float* p, int64_t stride, Vec a) {
  store_quad<N>(p, _mm512_castps512_ps128(a.v));
  store_quad<N>(p + stride, _mm512_extractf32x4_ps(a.v, 1));
  store_quad<N>(p + 2 * stride, _mm512_extractf32x4_ps(a.v, 2));
  store_quad<N>(p + 3 * stride, _mm512_extractf32x4_ps(a.v, 3));
}

inline __m256i load_16_bits(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline Vec load(const Half* p) { return {_mm512_cvtph_ps(load_16_bits(p))}; }
inline Vec load(const BFloat* p) {
  return from_bits(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16_bits(p)), 16));
}
inline Vec load(const int8_t* p) {
  const __m128i eight_bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(eight_bits))};
}

// vscalefps takes the exponent as a float.
struct Powers {
  alignas(32) uint32_t word[8];

  constexpr explicit Powers(const uint32_t (&float_bits)[8]) : word() {
    for (int j = 0; j < 8; ++j) word[j] = float_bits[j];
  }
};
inline Vec power(const Powers& table, Vec index, Vec e) {
  const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i*>(table.word));
  const __m512 factor = _mm512_castsi512_ps(_mm512_broadcast_i32x8(words));
  return {_mm512_scalef_ps(_mm512_permutexvar_ps(bits(index), factor), e.v)};
}

struct Table {
  alignas(64) uint32_t column[4][32];  // two registers each

  constexpr explicit Table(const uint32_t (&rows)[32][4]) : column() {
    for (int r = 0; r < 32; ++r) {
      for (int c = 0; c < 4; ++c) column[c][r] = rows[r][c];
    }
  }
};
struct Row {
  Vec word[4];
};
struct Index {
  Vec segment;
};
inline void set_index(Index& to, Vec segment) { to.segment = segment; }
inline Row lookup(const Table& table, const Index& index) {
  Row row = {};
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_load_si512(table.column[c]);
    const __m512i high = _mm512_load_si512(table.column[c] + 16);
    row.word[c] = from_bits(_mm512_permutex2var_epi32(low, bits(index.segment), high));
  }
  return row;
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
