// DenseTasks: the work of a forward in which every model gets the same number of rows, in the order
// of slots.
//
// A task is one block and some of its rows: all of them, unless there are too few blocks for the
// threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/forward_context.h"
#include "engine/threads.h"

namespace mlpbank {

class DenseTasks {
 public:
  struct Task {
    int64_t block, part;
  };

  // x is (models, rows, input_size), or (rows, input_size) where it is shared by all models.
  // y is (models, rows, output_size).
  DenseTasks(const ForwardContext& context, const float* x, bool shared, int64_t rows, float* y,
             int64_t models)
      : context_(context),
        x_(x),
        shared_(shared),
        rows_(rows),
        y_(y),
        models_(models),
        blocks_(context.layout.num_blocks(models)) {
    const int64_t threads = context.threads;
    const int64_t parts = threads * kChunksPerThread / 2 / std::max<int64_t>(1, blocks_);
    const int64_t wanted = threads > 1 ? std::max<int64_t>(1, parts) : 1;
    const int64_t passes = ((rows + wanted - 1) / wanted + kPassRows - 1) / kPassRows;
    part_rows_ = std::max<int64_t>(1, passes) * kPassRows;
    parts_ = (rows + part_rows_ - 1) / part_rows_;
    // A block of several tasks is looked up once, here: all of them see the same revision. So are
    // blocks that are to be of one moment.
    looks_up_first_ = parts_ > 1 || context.moment.has_value();
    for (int64_t b = 0; looks_up_first_ && b < blocks_; ++b) {
      block_snapshot_.push_back(context.guard.block(b));
    }
  }

  int64_t rows() const { return rows_; }
  int64_t gathered_rows() const { return 0; }

  // Throws ModelNotLoaded for the first model that is missing.
  void check_present() const {
    if (block_snapshot_.empty() && context_.guard.all_loaded()) return;
    for (int64_t slot = 0; slot < models_; ++slot) {
      const Bytes* block = block_at(slot / context_.block_models);
      if (!context_.has(block, slot)) BatchedWeights::throw_not_loaded(slot);
    }
  }

  ChunkedWork work() const {
    const int64_t tasks = blocks_ * parts_;
    const int64_t chunk = std::max(tasks / (context_.threads * kChunksPerThread),
                                   kLeastChunkBytes / context_.layout.block_bytes() + 1);
    return {tasks, chunk, context_.nanoseconds(blocks_, models_ * rows_)};
  }

  Task task(int64_t i) const { return {i / parts_, i % parts_}; }
  Task after(Task task) const {
    return task.part + 1 == parts_ ? Task{task.block + 1, 0} : Task{task.block, task.part + 1};
  }
  const Bytes* block(Task task) const { return block_at(task.block); }

  // Computes a task whose block holds at least one model; outputs of missing models are undefined.
  void compute(Task task, const Bytes* block, const Bytes* next, const Scratch& scratch) const {
    const int64_t slot = task.block * context_.block_models;
    const float* x = x_ + ((shared_ ? 0 : slot * rows_) + first_row(task)) * context_.in;
    if (context_.block_models == 1) {
      context_.panel(context_.plan, {block, next, x, y_at(task, slot), num_rows(task)},
                     scratch.kernel());
    } else {
      const LaneJob job = {block,
                           next,
                           x,
                           shared_ ? 0 : rows_ * context_.in,
                           y_at(task, slot),
                           rows_ * context_.out,
                           num_rows(task),
                           num_models(task)};
      context_.lane(context_.plan, job, scratch.kernel());
    }
  }

  // Calls visit(slot, outputs, number of floats) for each model of the task that is missing.
  template <class Visit>
  void for_each_missing(Task task, const Bytes* block, Visit visit) const {
    const int64_t models = num_models(task);
    if (context_.has_first(block, models)) return;
    const int64_t first = task.block * context_.block_models;
    for (int64_t slot = first; slot < first + models; ++slot) {
      if (!context_.has(block, slot)) {
        visit(slot, y_at(task, slot), num_rows(task) * context_.out);
      }
    }
  }

 private:
  static constexpr int64_t kLeastChunkBytes = 16 << 10;  // of weights

  const Bytes* block_at(int64_t b) const {
    return looks_up_first_ ? block_snapshot_[static_cast<std::size_t>(b)] : context_.guard.block(b);
  }
  int64_t num_models(Task task) const {
    return std::min(context_.block_models, models_ - task.block * context_.block_models);
  }
  int64_t first_row(Task task) const { return task.part * part_rows_; }
  int64_t num_rows(Task task) const { return std::min(part_rows_, rows_ - first_row(task)); }
  float* y_at(Task task, int64_t slot) const {
    return y_ + (slot * rows_ + first_row(task)) * context_.out;
  }

  const ForwardContext& context_;
  const float* const x_;
  const bool shared_;
  const int64_t rows_;
  float* const y_;
  const int64_t models_, blocks_;
  int64_t part_rows_, parts_;
  bool looks_up_first_;
  std::vector<const Bytes*> block_snapshot_;  // filled where looks_up_first_
};

}  // namespace mlpbank
