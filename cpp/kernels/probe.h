// What the machine can do at most, in the vectors of the kernels: reading one stream, and multiply-adds in registers.
// roofline.cpp times these; nothing else calls them.
#pragma once

#include "kernels/kernel.h"
#include "kernels/simd.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

constexpr int64_t kLineFloats = 16;  // one cache line
constexpr int kReadSlots = 8;        // lines read per step: eight sums in flight hide the latency of an add

// The sum of `floats` floats (whole cache lines), read as `Streams` streams side by side, each prefetching `ahead`
// floats ahead of itself, or leaving that to the hardware where it is 0.
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
  for (int slot = 1; slot < kReadSlots; ++slot) sum[0] = add(sum[0], sum[slot]);
  float lanes[kLanes], total = 0.0f;
  store(lanes, sum[0]);
  for (int i = 0; i < kLanes; ++i) total += lanes[i];
  return total;
}

// Which of these is the fastest depends on the level of memory and on the machine, so all are tried.
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

// `steps` times twelve multiply-adds, none of which waits for another: two units times a latency of four cycles need
// eight (AVX2, AVX-512); twelve also fit the 16 registers of AVX2. Returns the flops, and in `result` what they gave.
double probe_fma(int64_t steps, float* result) {
  constexpr int kChains = 12;
  Vec sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = broadcast(static_cast<float>(i));
  // Each chain tends to 1: no subnormal, no overflow. Read from memory, so that the compiler knows no value.
  const volatile float half = 0.5f;
  const Vec a = broadcast(half), b = broadcast(half);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = fma(sum[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) sum[0] = add(sum[0], sum[i]);
  store_first(result, sum[0], 1);
  return 2.0 * kChains * kLanes * static_cast<double>(steps);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
