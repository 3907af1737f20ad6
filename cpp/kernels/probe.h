// What the machine can do at most, in the vectors of the kernels: reading memory, and multiply-adds
// in registers. engine/roofline.cpp times these; nothing else calls them.
#pragma once

#include "kernels/kernel.h"
#include "kernels/simd.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

constexpr int64_t kLineFloats = 16;  // one cache line
constexpr int kReadSlots = 8;        // lines in a step: eight sums hide the latency of an add

// The sum of `floats` floats (whole cache lines), read as `Streams` streams side by side. Each
// prefetches `ahead` floats ahead of itself; 0 leaves that to the hardware.
template <int Streams>
inline float read_streams(const float* data, int64_t floats, int64_t ahead) {
  constexpr int64_t kStep = kReadSlots / Streams * kLineFloats;  // floats per stream and step
  const int64_t stream = floats / (Streams * kStep) * kStep;
  Vec sum[kReadSlots];
#pragma GCC unroll 8
  for (int slot = 0; slot < kReadSlots; ++slot) sum[slot] = broadcast(0.0f);
  for (int64_t i = 0; i < stream; i += kStep) {
#pragma GCC unroll 8
    for (int slot = 0; slot < kReadSlots; ++slot) {
      const float* line = data + slot % Streams * stream + i + slot / Streams * kLineFloats;
      if (ahead > 0) prefetch(line + ahead);
#pragma GCC unroll 4
      for (int64_t v = 0; v < kLineFloats; v += kLanes) sum[slot] = add(sum[slot], load(line + v));
    }
  }
  for (int64_t i = Streams * stream; i < floats; i += kLanes) sum[0] = add(sum[0], load(data + i));
#pragma GCC unroll 8
  for (int slot = 1; slot < kReadSlots; ++slot) sum[0] = add(sum[0], sum[slot]);
  float lanes[kLanes], total = 0.0f;
  store(lanes, sum[0]);
  for (int i = 0; i < kLanes; ++i) total += lanes[i];
  return total;
}

// The fastest of these depends on the level of memory and on the machine, so roofline.cpp tries
// all.
float probe_read(const float* data, int64_t floats, int variant) {
  switch (variant) {
    case 0:
      return read_streams<1>(data, floats, 0);
    case 1:
      return read_streams<1>(data, floats, 512);
    case 2:
      return read_streams<1>(data, floats, 2048);
    case 3:
      return read_streams<4>(data, floats, 0);
    default:
      return read_streams<4>(data, floats, 256);
  }
}

// `steps` times as many multiply-adds as a rows_tile has sums, twelve at least; none waits for
// another. Two units times a latency of four cycles need eight, four units (some ARM64) 16. Returns
// the flops and stores what they gave in `result`.
double probe_fma(int64_t steps, float* result) {
  constexpr int kChains = kRowsOutputs[3] < 4 ? 12 : 3 * static_cast<int>(kRowsOutputs[3]);
  Vec sum[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sum[i] = broadcast(static_cast<float>(i));
  // What is added is so small that no chain changes: no subnormal, no overflow. The compiler must
  // not know the value.
  const volatile float small = 0x1p-30f;
  const Vec a = broadcast(small);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) sum[i] = fma(sum[i], a, sum[i]);
  }
  // Unrolled too, so that no chain needs a place in memory.
#pragma GCC unroll 24
  for (int i = 1; i < kChains; ++i) sum[0] = add(sum[0], sum[i]);
  store_first(result, sum[0], 1);
  return 2.0 * kChains * kLanes * static_cast<double>(steps);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
