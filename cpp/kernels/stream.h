// What all hot loops share: the sizes of their tiles, and how a unit's weights are read.
#pragma once

#include "kernels/kernel.h"
#include "kernels/simd.h"

#define UNROLL _Pragma("GCC unroll 24")

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// Tile sizes that fill the register file. kRowsOutputs[v]: outputs beside v vectors of rows. kOutputsPanels[r]: panels
// beside r rows, at most kLanes / 2 of them.
#if defined(__AVX512F__)                        // 32 registers, a panel is one vector
constexpr int kRowsOutputs[] = {0, 16, 8, 8};  // at most 24 accumulators + 3 inputs + 1 weight
constexpr int kOutputsPanels[] = {0, 4, 4, 4, 4, 4, 4, 2, 2};  // at most 24 accumulators + 6 inputs + 1 weight
constexpr int kModelsRows = 3;                                 // 24 accumulators + 3 inputs + 1 weight
#elif defined(__AVX2__)                        // 16 registers, a panel is two vectors
constexpr int kRowsOutputs[] = {0, 8, 6, 4};  // at most 12 accumulators + 3 inputs + 1 weight
constexpr int kOutputsPanels[] = {0, 2, 2, 2, 1};
constexpr int kModelsRows = 1;
#else  // 16 registers, of which a multiplication needs one; a panel is four vectors
constexpr int kRowsOutputs[] = {0, 8, 4, 2};
constexpr int kOutputsPanels[] = {0, 1, 1};
constexpr int kModelsRows = 1;
#endif

// With AVX-512 an activation right after each tile runs beside the next tile's multiply-adds (tanh costs 22 % of relu's
// time, after a whole layer 25 %). With AVX2, whose tables are in memory, a whole layer at once is better (36 against
// 43 %).
constexpr bool kActivateTiles = kLanes == 16;

// Weights are read as one stream. This many bytes ahead is far enough for memory's latency at full bandwidth and near
// enough not to push anything out of L1. 16-bit weights gain 7 % from 10,240 (10000 x 32-64-64-1), float32 nothing, and
// calls for scattered models lose 5 %.
template <class Weight>
constexpr int64_t kPrefetchBytes = sizeof(Weight) == 2 ? 10240 : 6144;

// The weights of one unit. Where to prefetch from while reading at `from`: kPrefetchBytes, or `bytes` if that is more,
// ahead in this unit, and past its end in the unit that this thread takes next.
struct Stream {
  const Bytes* weights;
  const Bytes* next;
  int64_t unit_bytes;
  bool unpacked;  // whether layers lie at LayerPlan::unpacked

  template <class Weight>
  int64_t ahead(const Bytes* from, int64_t bytes = 0) const {
    const int64_t position = from - weights + (bytes > kPrefetchBytes<Weight> ? bytes : kPrefetchBytes<Weight>);
    // As integers: there may be no next unit, and the address may be past the end of the last one.
    const intptr_t target = position < unit_bytes ? reinterpret_cast<intptr_t>(weights) + position
                                                  : reinterpret_cast<intptr_t>(next) + (position - unit_bytes);
    return target - reinterpret_cast<intptr_t>(from);
  }
  template <class Weight>
  const Weight* soon(const Bytes* from, int64_t bytes) const {
    return reinterpret_cast<const Weight*>(reinterpret_cast<intptr_t>(from) + ahead<Weight>(from, bytes));
  }
};

inline void prefetch_ahead(const void* w, int64_t ahead) {
  prefetch(reinterpret_cast<const void*>(reinterpret_cast<intptr_t>(w) + ahead));
}

// step(0), step(1), ... `in` times with advance(n) after each n of them: several at once where one alone would be few
// multiply-adds, most of its time spent on counting.
template <int kFmas, class Step, class Advance>
inline void steps(int64_t in, Step step, Advance advance) {
  constexpr int kAtOnce = kFmas <= 2 ? 4 : kFmas <= 4 ? 2 : 1;
  int64_t left = in;
  for (; left >= kAtOnce; left -= kAtOnce) {
    UNROLL for (int i = 0; i < kAtOnce; ++i) step(i);
    advance(kAtOnce);
  }
  if (kAtOnce == 1) return;
  for (; left > 0; --left) {
    step(0);
    advance(1);
  }
}

// int8 weights are summed as they are; the sum is multiplied by the output's scale in the end.
template <class Weight>
constexpr bool kScaled = false;
template <>
constexpr bool kScaled<int8_t> = true;

template <class Weight>
constexpr bool kIsFloat = false;
template <>
constexpr bool kIsFloat<float> = true;

// Bytes from the start of a panel to its weights, for each output.
template <class Weight>
constexpr int64_t kHeaderBytes = kScaled<Weight> ? 8 : 4;

template <class Weight>
inline int64_t panel_bytes(int64_t in, int64_t width) {
  return (kHeaderBytes<Weight> + in * static_cast<int64_t>(sizeof(Weight))) * width;
}

inline const float* header_of(const Bytes* panel) { return reinterpret_cast<const float*>(panel); }

template <class Weight>
inline const Weight* weights_of(const Bytes* panel, int64_t width) {
  return reinterpret_cast<const Weight*>(panel + kHeaderBytes<Weight> * width);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
