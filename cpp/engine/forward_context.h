// What all forwards share: the context of one call, scratch memory, and errors of parallel
// sections.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

#include "buffer.h"
#include "engine/engine.h"
#include "engine/inference.h"
#include "errors.h"
#include "kernels/kernel.h"
#include "weights/weights.h"

namespace mlpbank {

// Estimates of a call's duration rest on these rates of one thread.
constexpr double kBytesPerNanosecond = 20, kFlopsPerNanosecond = 60;
constexpr double kBlockNanoseconds = 20;
// Each thread takes about this many chunks.
constexpr int64_t kChunksPerThread = 16;

// Nanoseconds that one thread needs for `rows` rows through models of `blocks` blocks.
inline double estimate(const Architecture& architecture, const Layout& layout, int64_t blocks,
                       int64_t rows) {
  const double bytes = static_cast<double>(blocks) * static_cast<double>(layout.block_bytes());
  const double flops =
      2.0 * static_cast<double>(rows) * static_cast<double>(architecture.num_parameters());
  return std::max(bytes / kBytesPerNanosecond, flops / kFlopsPerNanosecond) +
         kBlockNanoseconds * static_cast<double>(blocks);
}

// Buffers of one thread, kept between calls: memory allocated anew would fault its pages in anew.
class Scratch {
 public:
  // Three areas of at least these sizes, 64-byte aligned. False: there is no memory.
  bool reserve(int64_t kernel, int64_t gathered_x, int64_t gathered_y) noexcept {
    const auto round = [](int64_t n) { return (n + 15) / 16 * 16; };
    const int64_t total = round(kernel) + round(gathered_x) + round(gathered_y);
    try {
      if (buffer_.size() < total) buffer_ = AlignedBuffer(total);
    } catch (const std::bad_alloc&) {
      return false;
    }
    x_ = buffer_.data() + round(kernel);
    y_ = x_ + round(gathered_x);
    return true;
  }
  float* kernel() const { return buffer_.data(); }
  float* x() const { return x_; }
  float* y() const { return y_; }

 private:
  AlignedBuffer buffer_;
  float* x_ = nullptr;
  float* y_ = nullptr;
};

// One forward: the weights as it sees them, the kernels, and what the caller asked for.
struct ForwardContext {
  const BatchedWeights& weights;
  const Architecture& architecture;
  const Layout& layout;
  const BatchedWeights::ReadGuard guard;
  MappedPages* const pages;  // of a mapped file that are to be asked for; null: there are none
  void (*const panel)(const Plan&, const PanelJob&, float*);
  void (*const lane)(const Plan&, const LaneJob&, float*);
  // `plan` is that of blocks, `panel_plan` that of single models: in the lane layout, of twins.
  const Plan plan, panel_plan;
  const int64_t in, out, block_models;
  const int threads;
  const bool nan;                        // missing models give NaN; otherwise they are an error
  const std::optional<uint64_t> moment;  // that the forward is to see

  // Throws std::invalid_argument.
  ForwardContext(const BatchedWeights& w, const Engine& engine, const ForwardOptions& options)
      : weights(w),
        architecture(w.architecture()),
        layout(w.layout()),
        guard(w),
        pages(w.mapped_pages() != nullptr && w.mapped_pages()->remaining() > 0 ? w.mapped_pages()
                                                                               : nullptr),
        panel(engine.kernel().panel[static_cast<int>(layout.dtype())]),
        lane(engine.kernel().lane[static_cast<int>(layout.dtype())]),
        plan(layout.plan()),
        panel_plan(w.panel_layout().plan()),
        in(architecture.input_size()),
        out(architecture.output_size()),
        block_models(layout.block_models()),
        threads(num_threads(engine, options)),
        nan(options.missing == Missing::nan),
        moment(options.moment) {}

  // Call it when all blocks have been looked up.
  void check_moment() const {
    if (moment && weights.moment() != *moment) throw MomentPassed();
  }

  int64_t scratch_floats() const {
    const int64_t one_panel = (plan.buffer_width + 3) * kPanelWidth;
    const int64_t two_tiles = block_models > 1 ? 2 * block_models * plan.model_floats : 0;
    return kScratchRows * plan.buffer_width + std::max(one_panel, two_tiles);
  }

  // Whether `block`, as guard.block() gave it, holds the model of this slot.
  bool has(const Bytes* block, int64_t slot) const {
    return block != nullptr && layout.has_model(block, slot % block_models);
  }
  // Whether it holds a model in each of its first `lanes` lanes.
  bool has_first(const Bytes* block, int64_t lanes) const {
    const uint32_t wanted = (1u << lanes) - 1;
    return block != nullptr && (layout.present_mask(block) & wanted) == wanted;
  }

  double nanoseconds(int64_t blocks, int64_t rows) const {
    return estimate(architecture, layout, blocks, rows);
  }

 private:
  static int num_threads(const Engine& engine, const ForwardOptions& options) {
    if (options.num_threads < 0) {
      throw std::invalid_argument("num_threads: expected a positive integer, got " +
                                  std::to_string(options.num_threads));
    }
    const int most = engine.num_threads();
    return options.num_threads == 0 ? most : std::min(options.num_threads, most);
  }
};

// Collects errors of a parallel section, which must not throw, and raises them after its end.
class DeferredErrors {
 public:
  void no_memory() { no_memory_ = true; }
  // A model that was unloaded after the call had begun.
  void not_loaded(int64_t slot) { not_loaded_ = slot; }
  void raise() const {
    if (no_memory_) throw std::bad_alloc();
    if (not_loaded_ >= 0) BatchedWeights::throw_not_loaded(not_loaded_);
  }

 private:
  std::atomic<bool> no_memory_{false};
  std::atomic<int64_t> not_loaded_{-1};
};

}  // namespace mlpbank
