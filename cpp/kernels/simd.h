// The contract of an instruction set: every vector operation that the kernels are written in.
//
// A file for each instruction set defines them all, and nothing but these files has intrinsics:
//
//   simd_avx512.h    16 floats   registers hold tables
//   simd_avx2.h       8 floats
//   simd_neon.h       4 floats
//   simd_portable.h   4 floats   the compiler's own vectors: SSE2, NEON; multiply-adds round twice
//
// CMake says which by the macro MLPBANK_ISA, which also names the namespace. The anonymous
// namespace inside keeps every function private to its kernel object.
//
// All instruction sets that fuse give the same bits, NaN payloads apart. An operation works lane by
// lane and takes any float unless its line says otherwise.
#pragma once

#include <stdint.h>
#include <string.h>

#include "types.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// kLanes floats, or as many words of 32 bits. Each file defines it, and these constants:
//
//   int kLanes                 4, 8 or 16
//   int64_t kRowsOutputs[4]    outputs of a rows_tile beside v = 1, 2, 3 vectors of rows
//   int kOutputsPanels[]       panels of an outputs_tile beside r = 1 .. kLanes / 2 rows
//                              (both begin with a 0 for none)
//   int kModelsRows            rows of a models_tile, at most kTilePassRows
//   bool kTwoVectorTile        whether the rows_tile of two vectors is a good one
//   bool kActivateTiles        whether activations run after each tile, rather than each layer
//   bool kTablesInRegisters    whether lookup works in registers, rather than from memory
//
// A tile is as large as the registers allow: accumulators, inputs and one weight.
struct Vec;

// Memory. No address needs an alignment; conversions to float are exact.
inline Vec load(const float* p);     // kLanes floats
inline Vec load(const Half* p);      // kLanes float16, subnormals, infinities and NaN included
inline Vec load(const BFloat* p);    // kLanes bfloat16
inline Vec load(const int8_t* p);    // kLanes integers
inline void store(float* p, Vec a);  // kLanes floats
inline void store_first(float* p, Vec a, int64_t n);  // n floats, 0 < n < kLanes; none behind them
inline Vec broadcast(float s);                        // s in each lane

// Arithmetic of floats, rounded to nearest even.
inline Vec fma(Vec a, Vec b, Vec c);       // a * b + c, rounded once (portable: twice)
inline Vec fma_once(Vec a, Vec b, Vec c);  // a * b + c, rounded once (portable: in double first)
inline Vec add(Vec a, Vec b);              // a + b
inline Vec sub(Vec a, Vec b);              // a - b
inline Vec mul(Vec a, Vec b);              // a * b
inline Vec fms(Vec a, Vec b, Vec c);       // a * b - c, rounded like fma
inline Vec div(Vec a, Vec b);              // a / b, never by an approximate reciprocal

// Exact.
inline Vec min_keep_nan(Vec limit, Vec a);         // limit < a ? limit : a, so `a` where one is NaN
inline Vec max_keep_nan(Vec limit, Vec a);         // limit > a ? limit : a, so `a` where one is NaN
inline Vec min_magnitude(Vec limit, Vec a);        // min(|a|, limit), limit > 0; of NaN the limit
inline Vec minus_min_magnitude(Vec limit, Vec a);  // -min(|a|, limit), limit > 0; of NaN -limit
inline Vec replace_negative(Vec x, Vec by);        // x < 0 ? by : x, so x where it is NaN or -0
inline Vec copy_sign(Vec magnitude, Vec sign);     // magnitude, its sign bit 0, gets that of `sign`

// Words of 32 bits.
inline Vec bit_and(Vec a, Vec b);  // a & b
inline Vec int_add(Vec a, Vec b);  // a + b, wraps around
inline Vec int_sub(Vec a, Vec b);  // a - b, wraps around
template <int N>
inline Vec int_shift_left(Vec a);  // a << N, 0 < N < 32
template <int N>
inline Vec int_shift_right(Vec a);  // a >> N, 0 < N < 32, fills with zeros

// Transposing. Of every four lanes, the lower or upper halves of a and b in turn:
inline Vec zip_low(Vec a, Vec b);         // a0 b0 a1 b1
inline Vec zip_high(Vec a, Vec b);        // a2 b2 a3 b3
inline Vec zip_low_pairs(Vec a, Vec b);   // a0 a1 b0 b1
inline Vec zip_high_pairs(Vec a, Vec b);  // a2 a3 b2 b3
// Four lanes each from p, p + stride, ...: their first N floats, 2 <= N <= 4.
template <int N>
inline Vec load_quads(const float* p, int64_t stride);  // the other lanes are anything
template <int N>
inline void store_quads(float* p, int64_t stride, Vec a);  // writes nothing behind the N floats

// Eight floats f(0) .. f(7), made at compile time of their bits: Powers(bits).
struct Powers;
// f(low three bits of index) * 2^floor(e). `index` holds floor(e) above those bits, as an integer.
// (Only AVX-512 looks at e.)
inline Vec power(const Powers& table, Vec index, Vec e);

// A table of 32 rows of four words, made at compile time: Table(rows). lookup gives each lane the
// row that the low five bits of its segment name. set_index brings the segments of a vector to
// where lookup wants them.
struct Table;
struct Row;    // Vec word[4]
struct Index;  // default-constructible
inline void set_index(Index& to, Vec segment);
inline Row lookup(const Table& table, const Index& index);

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank

// kernels/simd_avx2.h if MLPBANK_ISA is avx2.
#define MLPBANK_QUOTED(text) #text
// clang-format off
#define MLPBANK_SIMD_FILE(isa) MLPBANK_QUOTED(kernels/simd_##isa.h)
// clang-format on
#define MLPBANK_SIMD_FILE_OF(isa) MLPBANK_SIMD_FILE(isa)
#include MLPBANK_SIMD_FILE_OF(MLPBANK_ISA)

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

static_assert(kLanes == 4 || kLanes == 8 || kLanes == 16, "a panel is whole vectors");
static_assert(sizeof kRowsOutputs == 4 * sizeof(int64_t), "for 0 to 3 vectors of rows");
static_assert(sizeof kOutputsPanels == (kLanes / 2 + 1) * sizeof(int), "for 0 to kLanes / 2 rows");

// What is the same for all.

inline Vec float_bits(uint32_t pattern) {
  float f;
  memcpy(&f, &pattern, sizeof f);
  return broadcast(f);
}

// Into L1. Any address is allowed.
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
inline void prefetch_to_write(const void* p) { __builtin_prefetch(p, 1, 3); }

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
