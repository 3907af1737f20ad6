// How the hot loops read a block: as one stream of weights, prefetched ahead of where they are.
//
//        block that is read now                    block that this thread reads next
//       +-----------------------------------+     +-------------------------------+
//       | ... from ... prefetch_address ... |     | ... prefetch_address ...      |
//       +-----------------------------------+     +-------------------------------+
//              |---- kPrefetchBytes --->|  and past the end goes on --->
#pragma once

#include "kernels/panels.h"
#include "kernels/simd.h"

#define UNROLL _Pragma("GCC unroll 24")

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// Far enough for memory's latency at full bandwidth, near enough to push nothing out of L1. 16-bit
// weights gain 7 % from the larger distance.
template <class Weight>
constexpr int64_t kPrefetchBytes = sizeof(Weight) == 2 ? 10240 : 6144;

// The weights of one block.
struct BlockStream {
  const Bytes* weights;
  const Bytes* next;  // the block this thread reads next
  int64_t bytes;
  bool unpacked;  // whether layers lie at LayerPlan::unpacked_offset

  const Bytes* layer(const LayerPlan& plan) const {
    return weights + (unpacked ? 4 * plan.unpacked_offset : plan.offset);
  }

  // What to prefetch while reading at `from`: kPrefetchBytes ahead in this block, or `at_least` if
  // that is more; past its end, in the next block. An integer, since there may be no next block,
  // and the address may be past the end of the last one.
  template <class Weight>
  intptr_t prefetch_address(const Bytes* from, int64_t at_least = 0) const {
    const int64_t ahead = at_least > kPrefetchBytes<Weight> ? at_least : kPrefetchBytes<Weight>;
    const int64_t position = from - weights + ahead;
    return position < bytes ? reinterpret_cast<intptr_t>(weights) + position
                            : reinterpret_cast<intptr_t>(next) + (position - bytes);
  }
  // The same as bytes from `from`.
  template <class Weight>
  int64_t prefetch_distance(const Bytes* from) const {
    return prefetch_address<Weight>(from) - reinterpret_cast<intptr_t>(from);
  }
};

// An activation and where its parameters lie, in the plan of the layer or in the block.
struct ActivationCall {
  Activation activation;
  const float *first, *second;
};

// The activation of a layer at this address. The slope of prelu is only prefetched: to wait for it
// before the layer's first tile costs 10 %.
template <class Weight, bool Scaled>
inline ActivationCall activation_of(const LayerPlan& plan, const Bytes* layer) {
  const ActivationSpec& spec = plan.activation;
  if (spec.activation != Activation::prelu) return {spec.activation, &spec.first, &spec.second};
  const int64_t panels = column_bytes<Weight, Scaled>(plan.in) * plan.out;
  const auto* slope = reinterpret_cast<const float*>(slopes_behind(layer, panels));
  prefetch(slope);
  return {spec.activation, slope, slope};
}

inline void prefetch_at(const void* from, int64_t distance) {
  prefetch(reinterpret_cast<const void*>(reinterpret_cast<intptr_t>(from) + distance));
}

// What a pass of many rows prefetches, a little with every input: memory cannot keep up with
// bursts.
//
//   weights   as many for a tile as it reads itself: all tiles of a panel share the panel's lines
//   rows      that this thread takes next; in a dense call they follow these
//   results   lines of y that this pass will write, some after each panel
template <class Weight>
struct PrefetchPlan {
  const Weight* weights;
  const float* rows;
  int64_t row_step;  // floats for each input
  const float* results;
  const float* results_end;  // beyond it, other threads write
  int64_t panel_lines;       // lines of results after each panel

  void begin_panel(intptr_t address) { weights = reinterpret_cast<const Weight*>(address); }
  void end_tile(int64_t in, int outputs) {
    weights += in * outputs;
    rows += in * row_step;
  }
  void end_panel() {
    for (int64_t n = 0; n < panel_lines && results < results_end; ++n, results += 16) {
      prefetch_to_write(results);
    }
  }
};

// Calls step(0), step(1), ... for `count` steps of kFmas multiply-adds each, and advance(n) after
// each n of them. Short steps go several at once: one alone would spend its time on counting.
template <int kFmas, class Step, class Advance>
inline void unrolled_for(int64_t count, Step step, Advance advance) {
  constexpr int kAtOnce = kFmas <= 2 ? 4 : kFmas <= 4 ? 2 : 1;
  int64_t left = count;
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

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
