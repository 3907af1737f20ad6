#include "engine/inference.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "buffer.h"
#include "engine/grouping.h"
#include "engine/threads.h"

namespace mlpbank {
namespace {

// What one thread gets through per nanosecond, and what a unit costs beside: for estimates of a call's duration only.
constexpr double kBytesPerNanosecond = 20, kFlopsPerNanosecond = 60;
constexpr double kUnitNanoseconds = 20;
// Each thread takes about this many chunks, but none smaller than kChunkBytes of weights.
constexpr int64_t kChunksPerThread = 16;
constexpr int64_t kChunkBytes = 16 << 10;
// Scattered rows are gathered for the kernel at most this many at a time.
constexpr int64_t kGatherRows = kPassRows;

// Buffers of one thread, kept between calls: an allocation per call would fault its pages in anew each time.
class Scratch {
 public:
  // Three areas of at least these sizes, 64-byte aligned, or false when there is no memory.
  bool reserve(int64_t kernel, int64_t gather_x, int64_t gather_y) noexcept {
    const auto round = [](int64_t n) { return (n + 15) / 16 * 16; };
    const int64_t total = round(kernel) + round(gather_x) + round(gather_y);
    try {
      if (buffer_.size() < total) buffer_ = AlignedBuffer(total);
    } catch (const std::bad_alloc&) {
      return false;
    }
    x_ = buffer_.data() + round(kernel);
    y_ = x_ + round(gather_x);
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

thread_local Scratch thread_scratch;
thread_local Grouping thread_grouping;  // of the calling thread

// Whether ids are 0, 1, 2, ...
bool is_arange(const int64_t* ids, int64_t count) {
  constexpr int64_t kBlock = 64;  // compared without a branch in between
  for (int64_t i = 0; i < count; i += kBlock) {
    int64_t difference = 0;
    for (int64_t j = i; j < std::min(count, i + kBlock); ++j) difference |= ids[j] ^ j;
    if (difference != 0) return false;
  }
  return true;
}

void fill_nan(float* y, int64_t n) { std::fill(y, y + n, std::numeric_limits<float>::quiet_NaN()); }

double estimate(const Architecture& architecture, const Layout& layout, int64_t units, int64_t rows) {
  const double bytes = static_cast<double>(units) * static_cast<double>(layout.unit_bytes());
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(architecture.num_parameters());
  return std::max(bytes / kBytesPerNanosecond, flops / kFlopsPerNanosecond) +
         kUnitNanoseconds * static_cast<double>(units);
}

// What every part of one call needs.
struct Call {
  const Architecture& architecture;
  const Layout& layout;
  const BatchedWeights::Reader reader;
  void (*const panel)(const Plan&, const PanelJob&, float*);
  void (*const lane)(const Plan&, const LaneJob&, float*);
  const Plan plan;
  const int64_t in, out, unit_models;

  Call(const BatchedWeights& w, const Engine& engine)
      : architecture(w.architecture()),
        layout(w.layout()),
        reader(w),
        panel(engine.kernel().panel[static_cast<int>(layout.dtype())]),
        lane(engine.kernel().lane[static_cast<int>(layout.dtype())]),
        plan(w.layout().plan()),
        in(architecture.input_size()),
        out(architecture.output_size()),
        unit_models(layout.unit_models()) {}

  int64_t scratch_floats() const {
    const int64_t one_panel = (plan.buffer_width + 3) * kPanelWidth, two_tiles = 2 * unit_models * plan.model_floats;
    return kScratchRows * plan.buffer_width + (unit_models > 1 ? two_tiles : one_panel);
  }

  // Whether `unit`, as reader.unit() gave it, holds the model.
  bool has(const Bytes* unit, int64_t model) const {
    return unit != nullptr && layout.has_model(unit, model % unit_models);
  }

  // Whether it holds all models that a unit can: one look at a tile instead of one for each of its entries.
  bool has_all(const Bytes* unit) const {
    return unit != nullptr && layout.models_in(unit) == unit_models;
  }

  double nanoseconds(int64_t units, int64_t rows) const { return estimate(architecture, layout, units, rows); }
};

// What happened inside a parallel section, where nothing may be thrown.
class Failures {
 public:
  void no_memory() { no_memory_ = true; }
  // A model that was unloaded after the call had begun.
  void not_loaded(int64_t model) { not_loaded_ = model; }
  void raise() const {
    if (no_memory_) throw std::bad_alloc();
    if (not_loaded_ >= 0) BatchedWeights::throw_not_loaded(not_loaded_);
  }

 private:
  std::atomic<bool> no_memory_{false};
  std::atomic<int64_t> not_loaded_{-1};
};

// Rows scattered over x and y, brought together for the kernel block by block and put back.
class ScatteredRows {
 public:
  ScatteredRows(const Call& call, const Grouping& grouping, const float* x, int64_t rows, float* y)
      : call_(call), grouping_(grouping), x_(x), rows_(rows), y_(y) {}

  // One piece of the panel layout: all entries are of one model.
  void run_panel(const Piece& piece, const Bytes* weights, const Bytes* next, Scratch& scratch) const {
    const int64_t entries = piece.end - piece.begin;
    const bool contiguous = grouping_.entry(piece.end - 1) - grouping_.entry(piece.begin) == entries - 1;
    if (contiguous || rows_ >= kGatherRows) {  // entries that are runs of rows already need no copy
      const int64_t step = contiguous ? entries : 1;
      for (int64_t i = piece.begin; i < piece.end; i += step) {
        const int64_t row = grouping_.entry(i) * rows_;
        call_.panel(call_.plan, {weights, next, x_ + row * call_.in, y_ + row * call_.out, step * rows_},
                           scratch.kernel());
      }
      return;
    }
    const int64_t step = std::max<int64_t>(1, kGatherRows / rows_);
    for (int64_t i = piece.begin; i < piece.end; i += step) {
      const int64_t n = std::min(step, piece.end - i);
      for (int64_t j = 0; j < n; ++j) gather(grouping_.entry(i + j), 0, rows_, scratch.x() + j * rows_ * call_.in);
      call_.panel(call_.plan, {weights, next, scratch.x(), scratch.y(), n * rows_}, scratch.kernel());
      for (int64_t j = 0; j < n; ++j) scatter(grouping_.entry(i + j), 0, rows_, scratch.y() + j * rows_ * call_.out);
    }
  }

  // One piece of the lane layout: entries of the models of one tile. Each step takes one entry of every model that
  // still has some; the lanes of the others compute on whatever is in the buffer, and nobody reads them.
  void run_lane(const Piece& piece, const Bytes* weights, const Bytes* next, Scratch& scratch) const {
    int64_t from[kTileModels], left[kTileModels] = {};
    for (int64_t i = piece.end; i-- > piece.begin;) {
      const int64_t lane = grouping_.model(i) % kTileModels;
      from[lane] = i;
      ++left[lane];
    }
    const int64_t block = std::min(rows_, kGatherRows);
    while (*std::max_element(left, left + kTileModels) > 0) {
      for (int64_t row = 0; row < rows_; row += block) {
        const int64_t n = std::min(block, rows_ - row);
        for (int64_t l = 0; l < kTileModels; ++l) {
          if (left[l] > 0) gather(grouping_.entry(from[l]), row, n, scratch.x() + l * n * call_.in);
        }
        const LaneJob job = {weights, next, scratch.x(), n * call_.in, scratch.y(), n * call_.out, n,
                             kTileModels};
        call_.lane(call_.plan, job, scratch.kernel());
        for (int64_t l = 0; l < kTileModels; ++l) {
          if (left[l] > 0) scatter(grouping_.entry(from[l]), row, n, scratch.y() + l * n * call_.out);
        }
      }
      for (int64_t l = 0; l < kTileModels; ++l) {
        if (left[l] > 0) --left[l], ++from[l];
      }
    }
  }

 private:
  void gather(int64_t entry, int64_t row, int64_t n, float* to) const {
    std::memcpy(to, x_ + (entry * rows_ + row) * call_.in, sizeof(float) * static_cast<std::size_t>(n * call_.in));
  }
  void scatter(int64_t entry, int64_t row, int64_t n, const float* from) const {
    std::memcpy(y_ + (entry * rows_ + row) * call_.out, from, sizeof(float) * static_cast<std::size_t>(n * call_.out));
  }

  const Call& call_;
  const Grouping& grouping_;
  const float* x_;
  int64_t rows_;
  float* y_;
};

}  // namespace

BatchedInference::BatchedInference(std::shared_ptr<BatchedWeights> weights, Engine engine)
    : weights_(std::move(weights)), engine_(engine) {}

bool BatchedInference::is_brief(int64_t models, int64_t rows) const {
  const Layout& layout = weights_->layout();
  const int64_t units = (models + layout.unit_models() - 1) / layout.unit_models();
  return !weights_->has_base() && estimate(weights_->architecture(), layout, units, models * rows) < kShareNanoseconds;
}

int BatchedInference::threads_for(const ForwardOptions& options) const {
  if (options.num_threads < 0) {
    throw std::invalid_argument("num_threads: expected a positive integer, got " + std::to_string(options.num_threads));
  }
  return options.num_threads == 0 ? engine_.num_threads() : std::min(options.num_threads, engine_.num_threads());
}

void BatchedInference::forward(const float* x, int64_t rows, float* y, const ForwardOptions& options) const {
  forward_dense(x, false, rows, y, options);
}

void BatchedInference::forward_shared(const float* x, int64_t rows, float* y, const ForwardOptions& options) const {
  forward_dense(x, true, rows, y, options);
}

void BatchedInference::forward_dense(const float* x, bool shared, int64_t rows, float* y,
                                     const ForwardOptions& options) const {
  const int64_t models = options.models > 0 ? options.models : weights_->num_models();
  const Call call(*weights_, engine_);
  const int threads = threads_for(options);
  const bool nan = options.missing == Missing::nan;
  const int64_t units = (models + call.unit_models - 1) / call.unit_models;
  if (!nan && !call.reader.all_loaded()) {
    for (int64_t m = 0; m < models; ++m) {
      if (!call.has(call.reader.unit(m / call.unit_models), m)) BatchedWeights::throw_not_loaded(m);
    }
  }
  if (rows == 0) return;

  // An item is one unit and some of its rows: all of them, unless there are too few units for the threads.
  const int64_t wanted_pieces = std::max<int64_t>(1, threads > 1 ? threads * kChunksPerThread / 2 / units : 1);
  const int64_t piece_rows = ((rows + wanted_pieces - 1) / wanted_pieces + kPassRows - 1) / kPassRows * kPassRows;
  const int64_t pieces = (rows + piece_rows - 1) / piece_rows;
  const int64_t items = units * pieces;
  const int64_t chunk = std::max(items / (threads * kChunksPerThread),
                                 kChunkBytes / call.plan.block_bytes + 1);
  // A unit that several threads will look at is looked up once, here: all of the call sees the same generation.
  std::vector<const Bytes*> seen;
  for (int64_t u = 0; pieces > 1 && u < units; ++u) seen.push_back(call.reader.unit(u));
  const auto unit_at = [&](int64_t u) { return pieces > 1 ? seen[static_cast<std::size_t>(u)] : call.reader.unit(u); };

  Failures failures;
  const ChunkedWork work = {items, chunk, call.nanoseconds(units, models * rows)};
  parallel_for(threads, work, [&](int64_t begin, int64_t end) {
    if (!thread_scratch.reserve(call.scratch_floats(), 0, 0)) return failures.no_memory();
    float* const scratch = thread_scratch.kernel();  // finding a thread's own memory is a function call, so once
    int64_t unit = begin / pieces, piece = begin % pieces;
    const Bytes* weights = unit_at(unit);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t model = unit * call.unit_models, row = piece * piece_rows;
      const int64_t count = std::min(call.unit_models, models - model);
      const int64_t n = std::min(piece_rows, rows - row);
      if (++piece == pieces) piece = 0, ++unit;
      const Bytes* next = i + 1 < end ? unit_at(unit) : weights;
      const float* from = x + ((shared ? 0 : model * rows) + row) * call.in;
      float* to = y + (model * rows + row) * call.out;
      if (weights != nullptr && call.unit_models == 1) {
        call.panel(call.plan, {weights, next, from, to, n}, scratch);
      } else if (weights != nullptr) {
        const LaneJob job = {weights, next, from, shared ? 0 : rows * call.in, to, rows * call.out, n, count};
        call.lane(call.plan, job, scratch);
      }
      const uint32_t wanted = (1u << count) - 1;
      const bool complete = weights != nullptr && (call.layout.lanes(weights) & wanted) == wanted;
      for (int64_t m = 0; !complete && m < count; ++m) {
        if (call.has(weights, model + m)) continue;
        fill_nan(to + m * rows * call.out, n * call.out);
        if (!nan) failures.not_loaded(model + m);
      }
      weights = next;
    }
  });
  failures.raise();
}

void BatchedInference::forward_models(const int64_t* models, int64_t entries, const float* x, int64_t rows, float* y,
                                      const ForwardOptions& options) const {
  const int64_t num_models = weights_->num_models();  // before the reader's table, which has at least as many
  // Models in order from the first on: nothing to group. Finding that out costs 0.3 ns an id, grouping 10.
  if (entries > 0 && entries <= num_models && is_arange(models, entries)) {
    return forward_dense(x, false, rows, y, {options.num_threads, options.missing, entries});
  }
  const Call call(*weights_, engine_);
  const int threads = threads_for(options);
  const bool nan = options.missing == Missing::nan;
  // A piece is at most what one thread should take at a time, so that one huge group keeps all threads busy.
  const int64_t max_rows = 8 * kGatherRows * call.unit_models;
  Grouping& grouping = thread_grouping;
  grouping.group(models, entries, num_models, call.unit_models,
                 std::max<int64_t>(1, max_rows / std::max<int64_t>(1, rows)));
  const auto pieces = static_cast<int64_t>(grouping.pieces().size());
  // Each unit is looked up once: all its pieces see the same generation.
  std::vector<const Bytes*> seen;
  seen.reserve(grouping.pieces().size());
  int64_t missing = entries;
  for (int64_t i = 0; i < pieces; ++i) {
    const Piece& piece = grouping.pieces()[static_cast<std::size_t>(i)];
    const bool again = i > 0 && grouping.pieces()[static_cast<std::size_t>(i - 1)].unit == piece.unit;
    seen.push_back(again ? seen.back() : call.reader.unit(piece.unit));
    const bool complete = nan || call.has_all(seen.back());
    for (int64_t j = piece.begin; !complete && j < piece.end; ++j) {
      if (!call.has(seen.back(), grouping.model(j))) missing = std::min(missing, grouping.entry(j));
    }
  }
  if (missing < entries) BatchedWeights::throw_not_loaded(models[missing]);  // the first as the caller wrote them
  if (rows == 0) return;

  const bool lanes = call.unit_models > 1;
  const int64_t gathered = lanes ? kTileModels * std::min(rows, kGatherRows) : kGatherRows;
  const ScatteredRows scattered(call, grouping, x, rows, y);
  Failures failures;
  const ChunkedWork work = {pieces, std::max<int64_t>(1, pieces / (threads * kChunksPerThread)),
                            call.nanoseconds(pieces, entries * rows)};
  parallel_for(threads, work, [&](int64_t begin, int64_t end) {
    Scratch& scratch = thread_scratch;
    if (!scratch.reserve(call.scratch_floats(), gathered * call.in, gathered * call.out)) return failures.no_memory();
    for (int64_t i = begin; i < end; ++i) {
      const Piece& piece = grouping.pieces()[static_cast<std::size_t>(i)];
      const Bytes* weights = seen[static_cast<std::size_t>(i)];
      const Bytes* next = seen[static_cast<std::size_t>(i + 1 < end ? i + 1 : i)];
      if (weights != nullptr && lanes) {
        scattered.run_lane(piece, weights, next, scratch);
      } else if (weights != nullptr) {
        scattered.run_panel(piece, weights, next, scratch);
      }
      for (int64_t j = piece.begin; nan && j < piece.end; ++j) {
        if (!call.has(weights, grouping.model(j))) fill_nan(y + grouping.entry(j) * rows * call.out, rows * call.out);
      }
    }
  });
  failures.raise();
}

}  // namespace mlpbank
