// AVX2 with FMA and F16C: 8 floats, 16 registers; a panel is two vectors.
#pragma once

#include <immintrin.h>

#include "kernels/simd_memory_table.h"
#include "kernels/simd_x86.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

constexpr int kLanes = 8;
constexpr int64_t kRowsOutputs[] = {0, 8, 6, 4};   // 12 accumulators + 3 inputs + 1 weight
constexpr int kOutputsPanels[] = {0, 2, 2, 2, 1};  // 12 accumulators + 3 inputs + 1 weight
constexpr int kModelsRows = 1;                     // 8 accumulators
constexpr bool kTwoVectorTile = false;
// Tables are in memory, so indices go through memory too. A whole layer at once hides that; tanh
// gains 7 %.
constexpr bool kActivateTiles = false;
constexpr bool kTablesInRegisters = false;

struct Vec {
  __m256 v;
};
inline __m256i bits(Vec a) { return _mm256_castps_si256(a.v); }
inline Vec from_bits(__m256i i) { return {_mm256_castsi256_ps(i)}; }

inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline void store_first(float* p, Vec a, int64_t n) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), index), a.v);
}
inline Vec broadcast(float s) { return {_mm256_set1_ps(s)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec fma_once(Vec a, Vec b, Vec c) { return fma(a, b, c); }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec fms(Vec a, Vec b, Vec c) { return {_mm256_fmsub_ps(a.v, b.v, c.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec min_keep_nan(Vec limit, Vec a) { return {_mm256_min_ps(limit.v, a.v)}; }
inline Vec max_keep_nan(Vec limit, Vec a) { return {_mm256_max_ps(limit.v, a.v)}; }
inline Vec bit_and(Vec a, Vec b) { return {_mm256_and_ps(a.v, b.v)}; }
inline Vec min_magnitude(Vec limit, Vec a) {
  return {_mm256_min_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v), limit.v)};
}
inline Vec minus_min_magnitude(Vec limit, Vec a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_max_ps(_mm256_or_ps(sign, a.v), _mm256_xor_ps(sign, limit.v))};
}
inline Vec replace_negative(Vec x, Vec by) {
  const __m256 negative = _mm256_cmp_ps(x.v, _mm256_setzero_ps(), _CMP_LT_OQ);
  return {_mm256_blendv_ps(x.v, by.v, negative)};
}
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return {_mm256_or_ps(magnitude.v, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign.v))};
}
inline Vec int_add(Vec a, Vec b) { return from_bits(_mm256_add_epi32(bits(a), bits(b))); }
inline Vec int_sub(Vec a, Vec b) { return from_bits(_mm256_sub_epi32(bits(a), bits(b))); }
template <int N>
inline Vec int_shift_left(Vec a) {
  return from_bits(_mm256_slli_epi32(bits(a), N));
}
template <int N>
inline Vec int_shift_right(Vec a) {
  return from_bits(_mm256_srli_epi32(bits(a), N));
}

inline Vec zip_low(Vec a, Vec b) { return {_mm256_unpacklo_ps(a.v, b.v)}; }
inline Vec zip_high(Vec a, Vec b) { return {_mm256_unpackhi_ps(a.v, b.v)}; }
inline __m256d pairs(Vec a) { return _mm256_castps_pd(a.v); }
inline Vec zip_low_pairs(Vec a, Vec b) {
  return {_mm256_castpd_ps(_mm256_unpacklo_pd(pairs(a), pairs(b)))};
}
inline Vec zip_high_pairs(Vec a, Vec b) {
  return {_mm256_castpd_ps(_mm256_unpackhi_pd(pairs(a), pairs(b)))};
}
template <int N>
inline Vec load_quads(const float* p, int64_t stride) {
  const __m256 one = _mm256_castps128_ps256(load_quad<N>(p));
  return {_mm256_insertf128_ps(one, load_quad<N>(p + stride), 1)};
}
template <int N>
inline void store_quads(float* p, int64_t stride, Vec a) {
  store_quad<N>(p, _mm256_castps256_ps128(a.v));
  store_quad<N>(p + stride, _mm256_extractf128_ps(a.v, 1));
}

inline __m128i load_16_bits(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
inline Vec load(const Half* p) { return {_mm256_cvtph_ps(load_16_bits(p))}; }
inline Vec load(const BFloat* p) {
  return from_bits(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16_bits(p)), 16));
}
inline Vec load(const int8_t* p) {
  const __m128i eight_bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight_bits))};
}

inline Vec power(const Powers& table, Vec index, Vec) {
  const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i*>(table.word));
  const Vec factor = from_bits(_mm256_permutevar8x32_epi32(words, bits(index)));
  return int_add(factor, int_shift_left<20>(index));
}

// Each lane loads its row, and then the rows are transposed. Four gather instructions took twice as
// long.
struct Row {
  Vec word[4];
};
struct Index {
  alignas(32) uint32_t offset[kLanes];  // bytes from the table's start
};
inline void set_index(Index& to, Vec segment) {
  const __m256i offset = _mm256_slli_epi32(bits(segment), 4);
  _mm256_store_si256(reinterpret_cast<__m256i*>(to.offset),
                     _mm256_and_si256(offset, _mm256_set1_epi32(31 * 16)));
}
inline Row lookup(const Table& table, const Index& index) {
  const auto row = [&](int lane) {
    const auto* start = reinterpret_cast<const char*>(table.row);
    return _mm_load_ps(reinterpret_cast<const float*>(start + index.offset[lane]));
  };
  __m256 rows[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // rows i and i + 4
    rows[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(row(i)), row(i + 4), 1);
  }
  const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(rows[0], rows[1]));
  const __m256d b = _mm256_castps_pd(_mm256_unpacklo_ps(rows[2], rows[3]));
  const __m256d c = _mm256_castps_pd(_mm256_unpackhi_ps(rows[0], rows[1]));
  const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(rows[2], rows[3]));
  return {{{_mm256_castpd_ps(_mm256_unpacklo_pd(a, b))},
           {_mm256_castpd_ps(_mm256_unpackhi_pd(a, b))},
           {_mm256_castpd_ps(_mm256_unpacklo_pd(c, d))},
           {_mm256_castpd_ps(_mm256_unpackhi_pd(c, d))}}};
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
