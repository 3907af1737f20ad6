#include "inference.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "grouping.h"
#include "threads.h"

namespace mlpbank {
namespace {

// What one thread gets through per nanosecond, and what a unit costs beside: for estimates of a call's duration only.
constexpr double kBytesPerNanosecond = 20, kFlopsPerNanosecond = 60;
constexpr double kUnitNanoseconds = 20;
// Each thread takes about this many chunks, but none smaller than kChunkBytes of weights.
constexpr int64_t kChunksPerThread = 16;
constexpr int64_t kChunkBytes = 16 << 10;
// Scattered rows are gathered for the kernel at most this many at a time.
constexpr int64_t kGatherRows = kBlockRows;

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

void fill_nan(float* y, int64_t n) { std::fill(y, y + n, std::numeric_limits<float>::quiet_NaN()); }

// What every part of one call needs.
struct Call {
  const BatchedWeights& weights;
  const Kernel& kernel;
  Plan plan;
  int64_t in, out, unit_models;

  Call(const BatchedWeights& w, const Engine& engine)
      : weights(w),
        kernel(engine.kernel()),
        plan(w.layout().plan()),
        in(w.architecture().input_size()),
        out(w.architecture().output_size()),
        unit_models(w.layout().unit_models()) {}

  const float* unit(int64_t i) const { return weights.data() + i * plan.unit_floats; }
  int64_t scratch_floats() const {
    return kScratchRows * plan.buffer_width + (unit_models > 1 ? plan.unit_floats : 0);
  }

  double nanoseconds(int64_t units, int64_t rows) const {
    const double bytes = 4.0 * static_cast<double>(units) * static_cast<double>(plan.unit_floats);
    const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(weights.architecture().num_parameters());
    return std::max(bytes / kBytesPerNanosecond, flops / kFlopsPerNanosecond) +
           kUnitNanoseconds * static_cast<double>(units);
  }
};

// Rows scattered over x and y, brought together for the kernel block by block and put back.
class ScatteredRows {
 public:
  ScatteredRows(const Call& call, const int64_t* models, const float* x, int64_t rows, float* y)
      : call_(call), models_(models), x_(x), rows_(rows), y_(y) {}

  // One piece of the panel layout: all entries are of one model.
  void run_panel(const Piece& piece, const int64_t* order, const float* next, Scratch& scratch) const {
    const float* weights = call_.unit(piece.unit);
    const int64_t entries = piece.end - piece.begin;
    const bool contiguous = order[piece.end - 1] - order[piece.begin] == entries - 1;
    if (contiguous || rows_ >= kGatherRows) {  // entries that are runs of rows already need no copy
      const int64_t step = contiguous ? entries : 1;
      for (int64_t i = piece.begin; i < piece.end; i += step) {
        const int64_t row = order[i] * rows_;
        call_.kernel.panel(call_.plan, {weights, next, x_ + row * call_.in, y_ + row * call_.out, step * rows_},
                           scratch.kernel());
      }
      return;
    }
    const int64_t step = std::max<int64_t>(1, kGatherRows / rows_);
    for (int64_t i = piece.begin; i < piece.end; i += step) {
      const int64_t n = std::min(step, piece.end - i);
      for (int64_t j = 0; j < n; ++j) gather(order[i + j], 0, rows_, scratch.x() + j * rows_ * call_.in);
      call_.kernel.panel(call_.plan, {weights, next, scratch.x(), scratch.y(), n * rows_}, scratch.kernel());
      for (int64_t j = 0; j < n; ++j) scatter(order[i + j], 0, rows_, scratch.y() + j * rows_ * call_.out);
    }
  }

  // One piece of the lane layout: entries of the models of one tile. Each step takes one entry of every model that
  // still has some; the lanes of the others compute on whatever is in the buffer, and nobody reads them.
  void run_lane(const Piece& piece, const int64_t* order, const float* next, Scratch& scratch) const {
    int64_t from[kTileModels], left[kTileModels] = {};
    for (int64_t i = piece.end; i-- > piece.begin;) {
      const int64_t lane = models_[order[i]] % kTileModels;
      from[lane] = i;
      ++left[lane];
    }
    const int64_t block = std::min(rows_, kGatherRows);
    while (*std::max_element(left, left + kTileModels) > 0) {
      for (int64_t row = 0; row < rows_; row += block) {
        const int64_t n = std::min(block, rows_ - row);
        for (int64_t l = 0; l < kTileModels; ++l) {
          if (left[l] > 0) gather(order[from[l]], row, n, scratch.x() + l * n * call_.in);
        }
        const LaneJob job = {call_.unit(piece.unit), next, scratch.x(), n * call_.in, scratch.y(), n * call_.out, n,
                             kTileModels};
        call_.kernel.lane(call_.plan, job, scratch.kernel());
        for (int64_t l = 0; l < kTileModels; ++l) {
          if (left[l] > 0) scatter(order[from[l]], row, n, scratch.y() + l * n * call_.out);
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
  const int64_t* models_;
  const float* x_;
  int64_t rows_;
  float* y_;
};

}  // namespace

BatchedInference::BatchedInference(std::shared_ptr<BatchedWeights> weights, Engine engine)
    : weights_(std::move(weights)), engine_(engine) {}

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
  const std::shared_lock lock(weights_->mutex());
  const Call call(*weights_, engine_);
  const int64_t models = weights_->num_models();
  const bool all_loaded = weights_->all_loaded();
  for (int64_t m = 0; !all_loaded && options.missing == Missing::error && m < models; ++m) {
    if (!weights_->loaded(m)) BatchedWeights::throw_not_loaded(m);
  }
  const int64_t units = (models + call.unit_models - 1) / call.unit_models;
  const int threads = threads_for(options);
  if (rows == 0) return;

  // An item is one unit and some of its rows: all of them, unless there are too few units for the threads.
  const int64_t wanted_pieces = std::max<int64_t>(1, threads > 1 ? threads * kChunksPerThread / 2 / units : 1);
  const int64_t piece_rows = ((rows + wanted_pieces - 1) / wanted_pieces + kBlockRows - 1) / kBlockRows * kBlockRows;
  const int64_t pieces = (rows + piece_rows - 1) / piece_rows;
  const int64_t items = units * pieces;
  const int64_t chunk = std::max(items / (threads * kChunksPerThread),
                                 kChunkBytes / (4 * call.plan.unit_floats) + 1);

  std::atomic<bool> no_memory{false};
  const ChunkedWork work = {items, chunk, call.nanoseconds(units, models * rows)};
  parallel_for(threads, work, [&](int64_t begin, int64_t end) {
    Scratch& scratch = thread_scratch;
    if (!scratch.reserve(call.scratch_floats(), 0, 0)) {
      no_memory = true;
      return;
    }
    for (int64_t i = begin; i < end; ++i) {
      const int64_t unit = i / pieces, row = i % pieces * piece_rows;
      const int64_t n = std::min(piece_rows, rows - row);
      const int64_t model = unit * call.unit_models;
      const int64_t count = std::min(call.unit_models, models - model);
      const float* weights = call.unit(unit);
      const float* next = call.unit(i + 1 < end ? (i + 1) / pieces : unit);
      const float* from = x + ((shared ? 0 : model * rows) + row) * call.in;
      float* to = y + (model * rows + row) * call.out;
      if (call.unit_models == 1) {
        call.kernel.panel(call.plan, {weights, next, from, to, n}, scratch.kernel());
      } else {
        const LaneJob job = {weights, next, from, shared ? 0 : rows * call.in, to, rows * call.out, n, count};
        call.kernel.lane(call.plan, job, scratch.kernel());
      }
      for (int64_t m = 0; !all_loaded && m < count; ++m) {
        if (!weights_->loaded(model + m)) fill_nan(to + m * rows * call.out, n * call.out);
      }
    }
  });
  if (no_memory) throw std::bad_alloc();
}

void BatchedInference::forward_models(const int64_t* models, int64_t entries, const float* x, int64_t rows, float* y,
                                      const ForwardOptions& options) const {
  const std::shared_lock lock(weights_->mutex());
  const Call call(*weights_, engine_);
  // A piece is at most what one thread should take at a time, so that one huge group keeps all threads busy.
  const int64_t max_rows = 8 * kGatherRows * call.unit_models;
  const Grouping grouping = group_by_model(models, entries, weights_->num_models(), call.unit_models,
                                           std::max<int64_t>(1, max_rows / std::max<int64_t>(1, rows)));
  const bool all_loaded = weights_->all_loaded();
  for (int64_t i = 0; !all_loaded && options.missing == Missing::error && i < entries; ++i) {
    if (!weights_->loaded(models[i])) BatchedWeights::throw_not_loaded(models[i]);
  }
  const auto pieces = static_cast<int64_t>(grouping.pieces.size());
  const int threads = threads_for(options);
  if (rows == 0) return;

  const bool lanes = call.unit_models > 1;
  const int64_t gathered = lanes ? kTileModels * std::min(rows, kGatherRows) : kGatherRows;
  const ScatteredRows scattered(call, models, x, rows, y);
  const int64_t* order = grouping.order.data();
  std::atomic<bool> no_memory{false};
  const ChunkedWork work = {pieces, std::max<int64_t>(1, pieces / (threads * kChunksPerThread)),
                            call.nanoseconds(pieces, entries * rows)};
  parallel_for(threads, work, [&](int64_t begin, int64_t end) {
    Scratch& scratch = thread_scratch;
    if (!scratch.reserve(call.scratch_floats(), gathered * call.in, gathered * call.out)) {
      no_memory = true;
      return;
    }
    for (int64_t i = begin; i < end; ++i) {
      const Piece& piece = grouping.pieces[static_cast<std::size_t>(i)];
      const float* next = call.unit(grouping.pieces[static_cast<std::size_t>(i + 1 < end ? i + 1 : i)].unit);
      if (lanes) {
        scattered.run_lane(piece, order, next, scratch);
      } else {
        scattered.run_panel(piece, order, next, scratch);
      }
      for (int64_t j = piece.begin; !all_loaded && j < piece.end; ++j) {
        if (!weights_->loaded(models[order[j]])) fill_nan(y + order[j] * rows * call.out, rows * call.out);
      }
    }
  });
  if (no_memory) throw std::bad_alloc();
}

}  // namespace mlpbank
