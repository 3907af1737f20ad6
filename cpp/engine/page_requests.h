// Asking for the weights of a forward in a mapped file, ahead of computing, so that the disk reads
// many blocks at once. Weights in memory have none of its costs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/forward_context.h"
#include "mapped_pages.h"
#include "types.h"

namespace mlpbank {

// A call asks for so many bytes before it computes: what scattered models need is asked for at
// once, and more would push pages out of memory before they are read. A thread that computes keeps
// so much ahead of itself, and asks by the step.
constexpr int64_t kCallBytes = 64 << 20, kAheadBytes = 16 << 20, kStepBytes = 4 << 20;

// Asks for blocks number `begin` to `end`, which `block_at` finds; null is none.
template <class BlockAt>
void request_blocks(const ForwardContext& context, int64_t begin, int64_t end, BlockAt block_at) {
  if (context.pages == nullptr) return;
  const int64_t block_bytes = context.layout.block_bytes();
  const Bytes* run = nullptr;  // adjacent blocks are one request
  int64_t run_bytes = 0;
  for (int64_t i = begin; i < end; ++i) {
    const Bytes* const block = block_at(i);
    const bool again = run != nullptr && block == run + run_bytes - block_bytes;
    if (block == nullptr || again) continue;
    if (run == nullptr || block != run + run_bytes) {
      context.pages->request(run, run_bytes);
      run = block;
      run_bytes = 0;
    }
    run_bytes += block_bytes;
  }
  context.pages->request(run, run_bytes);
}

// How many blocks there are in so many bytes.
inline int64_t blocks_in(const ForwardContext& context, int64_t bytes) {
  return std::max<int64_t>(1, bytes / context.layout.block_bytes());
}

// Before task i of a thread's tasks [begin, end).
template <class Tasks>
void request_ahead(const ForwardContext& context, const Tasks& tasks, int64_t i, int64_t begin,
                   int64_t end) {
  if (context.pages == nullptr || (i - begin) % blocks_in(context, kStepBytes) != 0) return;
  const int64_t until = std::min(end, i + blocks_in(context, kAheadBytes));
  request_blocks(context, i, until, [&](int64_t at) { return tasks.block(tasks.task(at)); });
}

}  // namespace mlpbank
