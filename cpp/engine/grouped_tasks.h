// GroupedTasks: the work of a forward whose entries go to slots that the caller names.
//
// A task is one group of entries (grouping.h). Its rows are scattered over x and y; they are
// gathered for the kernel, some at a time, and their results put back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/forward_context.h"
#include "engine/grouping.h"
#include "engine/threads.h"

namespace mlpbank {

class GroupedTasks {
 public:
  using Task = int64_t;  // number of the group

  // The most entries of a group: one large group is split so that it keeps all threads busy.
  static int64_t max_entries(const ForwardContext& context, int64_t rows) {
    return std::max<int64_t>(1,
                             8 * kGatherRows * context.block_models / std::max<int64_t>(1, rows));
  }

  // x is (entries, rows, input_size), y is (entries, rows, output_size). Entry i goes to slots[i].
  GroupedTasks(const ForwardContext& context, const Grouping& grouping, const int64_t* slots,
               int64_t entries, const float* x, int64_t rows, float* y)
      : context_(context),
        grouping_(grouping),
        slots_(slots),
        entries_(entries),
        x_(x),
        rows_(rows),
        y_(y),
        first_missing_(entries) {
    // Each block is looked up once: all entries of a model see the same revision.
    const std::vector<Group>& groups = grouping.groups();
    block_snapshot_.reserve(groups.size());
    for (std::size_t i = 0; i < groups.size(); ++i) {
      const Group& group = groups[i];
      const bool again = i > 0 && groups[i - 1].block == group.block;
      const Bytes* block = again ? block_snapshot_.back() : context.guard.block(group.block);
      block_snapshot_.push_back(block);
      // One check of a tile instead of one for each of its entries.
      if (context.nan || context.has_first(block, context.block_models)) continue;
      for (int64_t j = group.begin; j < group.end; ++j) {
        if (!context.has(block, grouping.slot(j))) {
          first_missing_ = std::min(first_missing_, grouping.entry(j));
        }
      }
    }
  }

  int64_t rows() const { return rows_; }
  int64_t gathered_rows() const {
    return context_.block_models > 1 ? kTileModels * std::min(rows_, kGatherRows) : kGatherRows;
  }

  // Throws ModelNotLoaded for the first entry, in the caller's order, whose model is missing.
  void check_present() const {
    if (first_missing_ < entries_) BatchedWeights::throw_not_loaded(slots_[first_missing_]);
  }

  ChunkedWork work() const {
    const auto groups = static_cast<int64_t>(block_snapshot_.size());
    const int64_t chunk = std::max<int64_t>(1, groups / (context_.threads * kChunksPerThread));
    return {groups, chunk, context_.nanoseconds(groups, entries_ * rows_)};
  }

  Task task(int64_t i) const { return i; }
  Task after(Task task) const { return task + 1; }
  const Bytes* block(Task task) const { return block_snapshot_[static_cast<std::size_t>(task)]; }

  // Computes a task whose block holds at least one model; outputs of missing models are undefined.
  void compute(Task task, const Bytes* block, const Bytes* next, const Scratch& scratch) const {
    if (context_.block_models > 1) {
      compute_tile(group(task), block, next, scratch);
    } else {
      compute_model(group(task), block, next, scratch);
    }
  }

  // Calls visit(slot, outputs, number of floats) for each entry of the task whose model is missing.
  // Without NaN for missing models there is none: check_present() has seen the same blocks.
  template <class Visit>
  void for_each_missing(Task task, const Bytes* block, Visit visit) const {
    if (!context_.nan) return;
    const Group& entries = group(task);
    for (int64_t j = entries.begin; j < entries.end; ++j) {
      if (context_.has(block, grouping_.slot(j))) continue;
      visit(grouping_.slot(j), y_at(grouping_.entry(j), 0), rows_ * context_.out);
    }
  }

 private:
  static constexpr int64_t kGatherRows = kPass;  // of one model, at most

  const Group& group(Task task) const { return grouping_.groups()[static_cast<std::size_t>(task)]; }
  const float* x_at(int64_t entry, int64_t row) const {
    return x_ + (entry * rows_ + row) * context_.in;
  }
  float* y_at(int64_t entry, int64_t row) const {
    return y_ + (entry * rows_ + row) * context_.out;
  }
  void gather(int64_t entry, int64_t row, int64_t rows, float* to) const {
    const auto floats = static_cast<std::size_t>(rows * context_.in);
    std::memcpy(to, x_at(entry, row), sizeof(float) * floats);
  }
  void scatter(int64_t entry, int64_t row, int64_t rows, const float* from) const {
    const auto floats = static_cast<std::size_t>(rows * context_.out);
    std::memcpy(y_at(entry, row), from, sizeof(float) * floats);
  }

  // Panel layout: all entries go to one model.
  void compute_model(const Group& group, const Bytes* block, const Bytes* next,
                     const Scratch& scratch) const {
    const int64_t entries = group.end - group.begin;
    const int64_t first = grouping_.entry(group.begin);
    const bool contiguous = grouping_.entry(group.end - 1) - first == entries - 1;
    if (contiguous || rows_ >= kGatherRows) {  // these rows are worth a kernel call where they lie
      const int64_t step = contiguous ? entries : 1;
      for (int64_t i = group.begin; i < group.end; i += step) {
        const int64_t entry = grouping_.entry(i);
        context_.panel(context_.plan, {block, next, x_at(entry, 0), y_at(entry, 0), step * rows_},
                       scratch.kernel());
      }
      return;
    }
    const int64_t step = std::max<int64_t>(1, kGatherRows / rows_);
    for (int64_t i = group.begin; i < group.end; i += step) {
      const int64_t n = std::min(step, group.end - i);
      for (int64_t j = 0; j < n; ++j) {
        gather(grouping_.entry(i + j), 0, rows_, scratch.x() + j * rows_ * context_.in);
      }
      context_.panel(context_.plan, {block, next, scratch.x(), scratch.y(), n * rows_},
                     scratch.kernel());
      for (int64_t j = 0; j < n; ++j) {
        scatter(grouping_.entry(i + j), 0, rows_, scratch.y() + j * rows_ * context_.out);
      }
    }
  }

  // Lane layout: entries go to the models of one tile. Each step takes one entry of every model
  // that has some left. The other lanes compute on old contents of the buffer, and their results
  // are not read.
  void compute_tile(const Group& group, const Bytes* block, const Bytes* next,
                    const Scratch& scratch) const {
    int64_t position[kTileModels], left[kTileModels] = {};
    for (int64_t i = group.end; i-- > group.begin;) {
      const int64_t lane = grouping_.slot(i) % kTileModels;
      position[lane] = i;
      ++left[lane];
    }
    const int64_t most = std::min(rows_, kGatherRows);
    while (*std::max_element(left, left + kTileModels) > 0) {
      for (int64_t row = 0; row < rows_; row += most) {
        const int64_t n = std::min(most, rows_ - row);
        const int64_t x_stride = n * context_.in, y_stride = n * context_.out;
        for (int64_t lane = 0; lane < kTileModels; ++lane) {
          if (left[lane] == 0) continue;
          gather(grouping_.entry(position[lane]), row, n, scratch.x() + lane * x_stride);
        }
        const LaneJob job = {block,       next,     scratch.x(), x_stride,
                             scratch.y(), y_stride, n,           kTileModels};
        context_.lane(context_.plan, job, scratch.kernel());
        for (int64_t lane = 0; lane < kTileModels; ++lane) {
          if (left[lane] == 0) continue;
          scatter(grouping_.entry(position[lane]), row, n, scratch.y() + lane * y_stride);
        }
      }
      for (int64_t lane = 0; lane < kTileModels; ++lane) {
        if (left[lane] > 0) --left[lane], ++position[lane];
      }
    }
  }

  const ForwardContext& context_;
  const Grouping& grouping_;
  const int64_t* const slots_;
  const int64_t entries_;
  const float* const x_;
  const int64_t rows_;
  float* const y_;
  int64_t first_missing_;                     // an entry; entries_: none
  std::vector<const Bytes*> block_snapshot_;  // by group
};

}  // namespace mlpbank
