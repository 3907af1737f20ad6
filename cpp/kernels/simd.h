// A vector of floats and the few operations the kernels need, for AVX-512, AVX2+FMA and plain C++.
// The only file with intrinsics. MLPBANK_ISA (given by CMake) names the instruction set and the namespace; the
// anonymous namespace inside it keeps every function private to its kernel object.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels/kernel.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

#if defined(__AVX2__)

// The first N of four floats, 2 to 4; in the register those behind them are 0.
template <int N>
inline __m128 load_quad(const float* p) {
  if constexpr (N == 4) return _mm_loadu_ps(p);
  const __m128 two = _mm_loadl_pi(_mm_setzero_ps(), reinterpret_cast<const __m64*>(p));
  return N == 2 ? two : _mm_movelh_ps(two, _mm_load_ss(p + 2));
}
template <int N>
inline void store_quad(float* p, __m128 quad) {
  if constexpr (N == 4) return _mm_storeu_ps(p, quad);
  _mm_storel_pi(reinterpret_cast<__m64*>(p), quad);
  if (N == 3) _mm_store_ss(p + 2, _mm_movehl_ps(quad, quad));
}

#endif
#if defined(__AVX512F__)

constexpr int kLanes = 16;
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
inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec min_keep_nan(Vec limit, Vec a) { return {_mm512_min_ps(limit.v, a.v)}; }
inline Vec max_keep_nan(Vec limit, Vec a) { return {_mm512_max_ps(limit.v, a.v)}; }
inline Vec bit_and(Vec a, Vec b) { return from_bits(_mm512_and_si512(bits(a), bits(b))); }
inline Vec bit_or(Vec a, Vec b) { return from_bits(_mm512_or_si512(bits(a), bits(b))); }
// min(|a|, limit), or that with a minus; of a NaN the limit. vrangeps does in one operation what else takes two.
inline Vec min_magnitude(Vec limit, Vec a) { return {_mm512_range_ps(a.v, limit.v, 0b1010)}; }
inline Vec minus_min_magnitude(Vec limit, Vec a) { return {_mm512_range_ps(a.v, limit.v, 0b1110)}; }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return from_bits(_mm512_ternarylogic_epi32(bits(magnitude), bits(sign), _mm512_set1_epi32(INT32_MIN), 0xf8));
}
inline Vec int_add(Vec a, Vec b) { return from_bits(_mm512_add_epi32(bits(a), bits(b))); }
template <int N>
inline Vec int_shift_left(Vec a) { return from_bits(_mm512_slli_epi32(bits(a), N)); }
template <int N>
inline Vec int_shift_right(Vec a) { return from_bits(_mm512_srli_epi32(bits(a), N)); }

// Of every 16 bytes, the lower or upper halves of a and b, their floats or pairs of floats in turn.
inline Vec zip_low(Vec a, Vec b) { return {_mm512_unpacklo_ps(a.v, b.v)}; }
inline Vec zip_high(Vec a, Vec b) { return {_mm512_unpackhi_ps(a.v, b.v)}; }
inline __m512d pairs(Vec a) { return _mm512_castps_pd(a.v); }
inline Vec zip_low_pairs(Vec a, Vec b) { return {_mm512_castpd_ps(_mm512_unpacklo_pd(pairs(a), pairs(b)))}; }
inline Vec zip_high_pairs(Vec a, Vec b) { return {_mm512_castpd_ps(_mm512_unpackhi_pd(pairs(a), pairs(b)))}; }
// The quads at p, p + stride, ..., N floats of each.
template <int N>
inline Vec load_quads(const float* p, int64_t stride) {
  const __m512 two = _mm512_insertf32x4(_mm512_castps128_ps512(load_quad<N>(p)), load_quad<N>(p + stride), 1);
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

inline __m256i load_16_bits(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Vec load(const Half* p) { return {_mm512_cvtph_ps(load_16_bits(p))}; }
inline Vec load(const BFloat* p) { return from_bits(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16_bits(p)), 16)); }
inline Vec load(const int8_t* p) {
  const __m128i eight_bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(eight_bits))};
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;
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
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec min_keep_nan(Vec limit, Vec a) { return {_mm256_min_ps(limit.v, a.v)}; }
inline Vec max_keep_nan(Vec limit, Vec a) { return {_mm256_max_ps(limit.v, a.v)}; }
inline Vec bit_and(Vec a, Vec b) { return {_mm256_and_ps(a.v, b.v)}; }
inline Vec bit_or(Vec a, Vec b) { return {_mm256_or_ps(a.v, b.v)}; }
inline Vec min_magnitude(Vec limit, Vec a) {
  return {_mm256_min_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v), limit.v)};
}
inline Vec minus_min_magnitude(Vec limit, Vec a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_max_ps(_mm256_or_ps(sign, a.v), _mm256_xor_ps(sign, limit.v))};
}
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return {_mm256_or_ps(magnitude.v, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign.v))};
}
inline Vec int_add(Vec a, Vec b) { return from_bits(_mm256_add_epi32(bits(a), bits(b))); }
template <int N>
inline Vec int_shift_left(Vec a) { return from_bits(_mm256_slli_epi32(bits(a), N)); }
template <int N>
inline Vec int_shift_right(Vec a) { return from_bits(_mm256_srli_epi32(bits(a), N)); }

inline Vec zip_low(Vec a, Vec b) { return {_mm256_unpacklo_ps(a.v, b.v)}; }
inline Vec zip_high(Vec a, Vec b) { return {_mm256_unpackhi_ps(a.v, b.v)}; }
inline __m256d pairs(Vec a) { return _mm256_castps_pd(a.v); }
inline Vec zip_low_pairs(Vec a, Vec b) { return {_mm256_castpd_ps(_mm256_unpacklo_pd(pairs(a), pairs(b)))}; }
inline Vec zip_high_pairs(Vec a, Vec b) { return {_mm256_castpd_ps(_mm256_unpackhi_pd(pairs(a), pairs(b)))}; }
template <int N>
inline Vec load_quads(const float* p, int64_t stride) {
  return {_mm256_insertf128_ps(_mm256_castps128_ps256(load_quad<N>(p)), load_quad<N>(p + stride), 1)};
}
template <int N>
inline void store_quads(float* p, int64_t stride, Vec a) {
  store_quad<N>(p, _mm256_castps256_ps128(a.v));
  store_quad<N>(p + stride, _mm256_extractf128_ps(a.v, 1));
}

inline __m128i load_16_bits(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline Vec load(const Half* p) { return {_mm256_cvtph_ps(load_16_bits(p))}; }
inline Vec load(const BFloat* p) { return from_bits(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16_bits(p)), 16)); }
inline Vec load(const int8_t* p) {
  const __m128i eight_bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight_bits))};
}

#else

// Four floats in the compiler's own vector type: SSE2 on any x86-64, NEON on arm64. There may be no fused
// multiply-add, so results can differ from the other kernels by rounding.
constexpr int kLanes = 4;
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
// For sums that cancel: rounded once, but for the rounding of the sum to double.
inline Vec fma_once(Vec a, Vec b, Vec c) {
  typedef double Double4 __attribute__((vector_size(32)));
  const Double4 sum = __builtin_convertvector(a.v, Double4) * __builtin_convertvector(b.v, Double4) +
                      __builtin_convertvector(c.v, Double4);
  return {__builtin_convertvector(sum, Float4)};
}
inline Vec add(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec div(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec pick(Int4 mask, Vec yes, Vec no) { return from_bits(((Uint4)mask & bits(yes)) | (~(Uint4)mask & bits(no))); }
inline Vec min_keep_nan(Vec limit, Vec a) { return pick(limit.v < a.v, limit, a); }
inline Vec max_keep_nan(Vec limit, Vec a) { return pick(limit.v > a.v, limit, a); }
inline Vec bit_and(Vec a, Vec b) { return from_bits(bits(a) & bits(b)); }
inline Vec bit_or(Vec a, Vec b) { return from_bits(bits(a) | bits(b)); }
inline Vec min_magnitude(Vec limit, Vec a) {
  const Vec magnitude = from_bits(bits(a) & 0x7fffffff);
  return pick(magnitude.v < limit.v, magnitude, limit);
}
inline Vec minus_min_magnitude(Vec limit, Vec a) { return from_bits(bits(min_magnitude(limit, a)) | 0x80000000); }
inline Vec copy_sign(Vec magnitude, Vec sign) { return from_bits(bits(magnitude) | (bits(sign) & 0x80000000)); }
inline Vec int_add(Vec a, Vec b) { return from_bits(bits(a) + bits(b)); }
template <int N>
inline Vec int_shift_left(Vec a) { return from_bits(bits(a) << N); }
template <int N>
inline Vec int_shift_right(Vec a) { return from_bits(bits(a) >> N); }

inline Vec zip_low(Vec a, Vec b) { return {__builtin_shufflevector(a.v, b.v, 0, 4, 1, 5)}; }
inline Vec zip_high(Vec a, Vec b) { return {__builtin_shufflevector(a.v, b.v, 2, 6, 3, 7)}; }
inline Vec zip_low_pairs(Vec a, Vec b) { return {__builtin_shufflevector(a.v, b.v, 0, 1, 4, 5)}; }
inline Vec zip_high_pairs(Vec a, Vec b) { return {__builtin_shufflevector(a.v, b.v, 2, 3, 6, 7)}; }
template <int N>
inline Vec load_quads(const float* p, int64_t) {
  Vec a = {};
  memcpy(&a, p, N * sizeof(float));
  return a;
}
template <int N>
inline void store_quads(float* p, int64_t, Vec a) { memcpy(p, &a, N * sizeof(float)); }

inline Vec load(const BFloat* p) { return from_bits(Uint4{p[0].bits, p[1].bits, p[2].bits, p[3].bits} << 16); }
// Exponent and mantissa move to their places in a float32; multiplying by 2^112 mends the exponent's offset, also of
// subnormals. What was infinity or NaN gets the exponent of those back.
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

#endif

inline Vec float_bits(uint32_t pattern) {
  float f;
  memcpy(&f, &pattern, sizeof f);
  return broadcast(f);
}

inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
inline void prefetch_to_write(const void* p) { __builtin_prefetch(p, 1, 3); }

// ---------------------------------------------------------------------------------------------------------------------
// Tables of constants.

// Eight floats f(0) .. f(7) with power(index, e) = f(low three bits of index) * 2^floor(e). Above those three bits the
// index holds floor(e) as an integer, whose bits are the exponent to add; AVX-512 has an instruction that takes e.
struct Powers {
  alignas(32) uint32_t word[8];

  constexpr explicit Powers(const uint32_t (&float_bits)[8]) : word() {
    for (uint32_t j = 0; j < 8; ++j) {
#if defined(__AVX512F__)
      word[j] = float_bits[j];
#else
      word[j] = float_bits[j] - (j << 20);  // what the three bits add when the index moves to the exponent's place
#endif
    }
  }
};

// A table of 32 rows of four words: lookup gives each lane the row that the low five bits of its index name.
struct Row {
  Vec word[4];
};

#if defined(__AVX512F__)

inline Vec power(const Powers& table, Vec index, Vec e) {
  const __m512 factor = _mm512_castsi512_ps(_mm512_broadcast_i32x8(_mm256_load_si256((const __m256i*)table.word)));
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

using Index = Vec;
inline Row lookup(const Table& table, Index index) {
  Row row = {};
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_load_si512(table.column[c]), high = _mm512_load_si512(table.column[c] + 16);
    row.word[c] = from_bits(_mm512_permutex2var_epi32(low, bits(index), high));
  }
  return row;
}

#else

struct Table {
  alignas(64) uint32_t row[32][4];

  constexpr explicit Table(const uint32_t (&rows)[32][4]) : row() {
    for (int r = 0; r < 32; ++r) {
      for (int c = 0; c < 4; ++c) row[r][c] = rows[r][c];
    }
  }
};

// Rows come from memory one lane at a time, so the indices go through memory too. Four gather instructions took twice
// as long (AVX2).
struct Index {
  alignas(32) uint32_t offset[kLanes];
};

#if defined(__AVX2__)

inline Vec power(const Powers& table, Vec index, Vec) {
  const __m256i factor = _mm256_load_si256((const __m256i*)table.word);
  return int_add(from_bits(_mm256_permutevar8x32_epi32(factor, bits(index))), int_shift_left<20>(index));
}

inline void keep(Index& to, Vec index) {
  const __m256i offset = _mm256_and_si256(_mm256_slli_epi32(bits(index), 4), _mm256_set1_epi32(31 * 16));
  _mm256_store_si256((__m256i*)to.offset, offset);
}

inline Row lookup(const Table& table, const Index& index) {
  const auto row = [&](int lane) {
    return _mm_load_ps((const float*)((const char*)table.row + index.offset[lane]));
  };
  __m256 rows[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(row(i)), row(i + 4), 1);  // rows i and i + 4
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

#else

inline Vec power(const Powers& table, Vec index, Vec) {
  const Uint4 j = bits(index) & 7;
  const Uint4 factor = {table.word[j[0]], table.word[j[1]], table.word[j[2]], table.word[j[3]]};
  return int_add(from_bits(factor), int_shift_left<20>(index));
}

inline void keep(Index& to, Vec index) {
  const Uint4 row = bits(index) & 31;
  memcpy(to.offset, &row, sizeof row);
}

inline Row lookup(const Table& table, const Index& index) {
  const auto word = [&](int c) {
    return from_bits(Uint4{table.row[index.offset[0]][c], table.row[index.offset[1]][c], table.row[index.offset[2]][c],
                           table.row[index.offset[3]][c]});
  };
  return {{word(0), word(1), word(2), word(3)}};
}

#endif
#endif

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
