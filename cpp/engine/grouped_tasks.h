// GroupedTasks: the work of a forward whose entries go to slots that the caller names.
//
// A task is one group of entries (grouping.h). Its rows are scattered over x and y; they are
// gathered for the kernel, some at a time, and their results put back.
//
// In the lane layout a group has the entries of up to 16 models. Where most of these have a row or
// a few, the tile computes them side by side; otherwise each model goes alone, from the twin of the
// tile (weights/twins.h), as in the panel layout.
#pragma once

#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "engine/forward_context.h"
#include "engine/grouping.h"
#include "engine/page_requests.h"
#include "engine/rows.h"
#include "engine/threads.h"

namespace mlpbank {

class GroupedTasks {
 public:
  using Task = int64_t;  // number of the group

  // One large group is split so that it keeps all threads busy.
  static GroupingWish wish(const ForwardContext& context, int64_t num_models, int64_t rows) {
    const int64_t most = 8 * kPassRows * context.block_models / std::max<int64_t>(1, rows);
    const int64_t bytes = 4 * rows * (context.in + context.out);
    return {num_models, context.block_models, std::max<int64_t>(1, most), bytes, context.threads};
  }

  // x is (entries, rows, input_size), y is (entries, rows, output_size). Entry i goes to slots[i].
  GroupedTasks(const ForwardContext& context, const Grouping& grouping, const int64_t* slots,
               int64_t entries, int64_t num_models, const float* x, int64_t rows, float* y)
      : context_(context),
        grouping_(grouping),
        slots_(slots),
        entries_(entries),
        rows_(rows),
        x_(x, rows * context.in),
        y_(y, rows * context.out),
        tiles_are_cached_(context.layout.num_blocks(num_models) * context.layout.block_bytes() <=
                          kCacheBytes),
        least_lanes_(lanes_worth(rows)),
        first_missing_(entries) {
    const std::vector<Group>& groups = grouping.groups();
    blocks_.reserve(groups.size());
    const auto asked =
        std::min(static_cast<int64_t>(groups.size()), blocks_in(context, kCallBytes));
    request_blocks(context, 0, asked, [&](int64_t i) {
      return context.guard.block(groups[static_cast<std::size_t>(i)].block);
    });
    // Each block is looked up once: all entries of a model see the same revision.
    std::vector<int64_t> first_group;  // of each block, where one may come again later
    if (grouping.in_stretches()) {
      first_group.assign(static_cast<std::size_t>(context.layout.num_blocks(num_models)), kNone);
    }
    for (std::size_t i = 0; i < groups.size(); ++i) {
      if (context.block_models > 1 && i + kLookAhead < groups.size()) {
        context.guard.prefetch_twin(groups[i + kLookAhead].block);
      }
      const Group& group = groups[i];
      if (first_group.empty()) {
        const bool again = i > 0 && groups[i - 1].block == group.block;
        blocks_.push_back(again ? blocks_.back() : find(group.block));
      } else {
        int64_t& first = first_group[static_cast<std::size_t>(group.block)];
        blocks_.push_back(first != kNone ? found(first) : find(group.block));
        if (first == kNone) first = static_cast<int64_t>(i);
      }
      // One check of a tile instead of one for each of its entries.
      const Block& block = blocks_.back();
      if (context.nan || block.has_all(context)) continue;
      for (int64_t j = group.begin; j < group.end; ++j) {
        if (!context.has(block.address, grouping.slot(j))) {
          first_missing_ = std::min(first_missing_, grouping.entry(j));
        }
      }
    }
  }

  int64_t rows() const { return rows_; }
  int64_t gathered_rows() const {
    if (context_.block_models == 1) return kPassRows;
    return grouping_.in_stretches() ? kTileModels * kPassRows : kTileModels * kMostTileRows;
  }

  // Throws ModelNotLoaded for the first entry, in the caller's order, whose model is missing.
  void check_present() const {
    if (first_missing_ < entries_) BatchedWeights::throw_not_loaded(slots_[first_missing_]);
  }

  ChunkedWork work() const {
    const auto groups = static_cast<int64_t>(blocks_.size());
    const int64_t chunk = std::max<int64_t>(1, groups / (context_.threads * kChunksPerThread));
    return {groups, chunk, context_.nanoseconds(groups, entries_ * rows_)};
  }

  Task task(int64_t i) const { return i; }
  Task after(Task task) const { return task + 1; }
  const Bytes* block(Task task) const { return found(task).address; }

  // Computes a task whose block holds at least one model; outputs of missing models are undefined.
  // Throws std::bad_alloc.
  void compute(Task task, const Bytes* block, const Bytes* next, const Scratch& scratch) const {
    prefetch_models(task + kTasksAhead);
    if (context_.block_models > 1) {
      compute_tile(task, next, scratch);
    } else {
      compute_model(group(task).begin, group(task).end, block, next, scratch);
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
      visit(grouping_.slot(j), y_.at(grouping_.entry(j)), rows_ * context_.out);
    }
  }

 private:
  // The most rows of a model that its tile computes; rows_tile then is faster.
  static constexpr int64_t kMostTileRows = 16;
  // Tiles of a bank that is larger come from memory, and then reading them takes longest.
  static constexpr int64_t kCacheBytes = 1 << 20;
  static constexpr std::size_t kLookAhead = 8;  // groups, for twins
  static constexpr int64_t kNone = -1;
  static constexpr int64_t kShortModel = 2048, kTasksAhead = 4, kFewEntries = 4;

  // A block as the call sees it, and the twin of a tile that has one.
  struct Block {
    const Bytes* address;
    const Twin* twin;
    bool has_all(const ForwardContext& context) const {
      if (twin == nullptr) return context.has_first(address, context.block_models);
      return twin->present_mask() == (1u << kTileModels) - 1;
    }
  };
  // Entries of one model, as positions in the sorted entries.
  struct Run {
    int64_t begin, end;
  };

  Block find(int64_t block) const {
    const Bytes* address = context_.guard.block(block);
    const bool tile = context_.block_models > 1 && address != nullptr;
    return {address, tile ? context_.guard.find_twin(block, address) : nullptr};
  }
  const Block& found(Task task) const { return blocks_[static_cast<std::size_t>(task)]; }
  const Group& group(Task task) const { return grouping_.groups()[static_cast<std::size_t>(task)]; }

  // A kernel prefetches the next model while it reads this one; models as short as that have been
  // read before anything comes of it.
  void prefetch_model(const Bytes* model) const {
    if (context_.panel_plan.block_bytes > kShortModel) return;
    for (int64_t i = 0; i < context_.panel_plan.block_bytes; i += 64) prefetch_line(model + i);
  }
  // The first models that a task reads.
  void prefetch_models(Task task) const {
    if (task >= static_cast<int64_t>(blocks_.size())) return;
    const Block& block = found(task);
    if (context_.block_models == 1) return prefetch_model(block.address);
    const Group& entries = group(task);
    if (block.twin == nullptr || entries.end - entries.begin > kFewEntries) return;
    for (int64_t i = entries.begin; i < entries.end; ++i) prefetch_model(model(block.twin, i));
  }
  // The model of the entry at this position.
  const Bytes* model(const Twin* twin, int64_t position) const {
    return twin->model(grouping_.slot(position) % kTileModels, context_.panel_plan.block_bytes);
  }
  void prefetch_entry(int64_t position) const {
    if (position >= entries_) return;
    const int64_t entry = grouping_.entry(position);
    prefetch_row(x_.at(entry), x_.floats);
    prefetch_row_to_write(y_.at(entry), y_.floats);
  }

  // All rows of one model: positions [begin, end).
  void compute_model(int64_t begin, int64_t end, const Bytes* model, const Bytes* next,
                     const Scratch& scratch) const {
    const int64_t entries = end - begin;
    const int64_t first = grouping_.entry(begin);
    const bool contiguous = grouping_.entry(end - 1) - first == entries - 1;
    if (contiguous || rows_ >= kPassRows) {  // these rows are worth a kernel call where they lie
      // A kernel prefetches many rows itself, and those of the next call where all are in order.
      const int64_t ahead = grouping_.ascending() ? 0 : std::min(entries, kEntriesAhead);
      for (int64_t i = begin; i < begin + ahead; ++i) prefetch_entry(i + kEntriesAhead);
      const int64_t step = contiguous ? entries : 1;
      for (int64_t i = begin; i < end; i += step) {
        const int64_t entry = grouping_.entry(i);
        context_.panel(context_.panel_plan, {model, next, x_.at(entry), y_.at(entry), step * rows_},
                       scratch.kernel());
      }
      return;
    }
    const int64_t step = std::max<int64_t>(1, kPassRows / rows_);
    for (int64_t i = begin; i < end; i += step) {
      const int64_t n = std::min(step, end - i);
      gather(i, n, scratch.x());
      context_.panel(context_.panel_plan, {model, next, scratch.x(), scratch.y(), n * rows_},
                     scratch.kernel());
      scatter(i, n, scratch.y());
    }
  }
  // Copies the rows of some entries, and prefetches what lies ahead: results only where these are
  // far apart.
  void gather(int64_t begin, int64_t entries, float* to) const {
    const int64_t end = begin + entries, stop = std::min(end, entries_ - kEntriesAhead);
    const int64_t y_floats = grouping_.in_stretches() ? 0 : y_.floats;
    grouping_.with_entries(begin, [&](auto entry_at) {
      with_length(x_.floats, [=, x = x_.first, y = y_.first](auto floats) {
        float* out = to;
        int64_t i = begin;
        for (; i < stop; ++i, out += floats) {
          const int64_t later = entry_at(i + kEntriesAhead);
          prefetch_row(x + later * floats, floats);
          if (y_floats > 0) prefetch_row_to_write(y + later * y_floats, y_floats);
          copy_row(x + entry_at(i) * floats, floats, out);
        }
        for (; i < end; ++i, out += floats) copy_row(x + entry_at(i) * floats, floats, out);
      });
    });
  }
  void scatter(int64_t begin, int64_t entries, const float* from) const {
    grouping_.with_entries(begin, [&](auto entry_at) {
      with_length(y_.floats, [=, y = y_.first](auto floats) {
        const float* in = from;
        for (int64_t i = begin; i < begin + entries; ++i, in += floats) {
          copy_row(in, floats, y + entry_at(i) * floats);
        }
      });
    });
  }

  // Lane layout: entries go to the models of one tile.
  void compute_tile(Task task, const Bytes* next, const Scratch& scratch) const {
    const Group& entries = group(task);
    Run runs[kTileModels];
    int count = 0;
    grouping_.for_each_slot(entries, kTileModels,
                            [&](int64_t begin, int64_t end) { runs[count++] = {begin, end}; });
    Run* end = runs + count;
    if (const int64_t steps = tile_steps(runs, count)) {
      compute_side_by_side(task, runs, count, steps, next, scratch);
      end = std::remove_if(runs, end, [](Run r) { return r.begin == r.end; });
    }
    if (end == runs) return;
    const Twin* twin = found(task).twin;
    if (twin == nullptr) twin = context_.guard.get_twin(entries.block, found(task).address);
    const Bytes* here = model(twin, runs->begin);
    for (const Run* run = runs; run != end;) {
      const Run* const stop = gathered_together(run, end);
      const bool together = stop - run > 1;
      const int64_t first = run->begin, count_together = stop[-1].end - first;
      if (together) gather(first, count_together, scratch.x());
      for (; run != stop; ++run) {
        const Bytes* const after = run + 1 == end ? here : model(twin, run[1].begin);
        prefetch_model(after);
        if (together) {
          const int64_t at = run->begin - first, n = run->end - run->begin;
          context_.panel(
              context_.panel_plan,
              {here, after, scratch.x() + at * x_.floats, scratch.y() + at * y_.floats, n * rows_},
              scratch.kernel());
        } else {
          compute_model(run->begin, run->end, here, after, scratch);
        }
        here = after;
      }
      if (together) scatter(first, count_together, scratch.y());
    }
  }

  // The end of the runs from `run` on whose rows are gathered at once: short ones that follow each
  // other among the sorted entries and fit the buffer; or of this one, which is gathered by itself.
  const Run* gathered_together(const Run* run, const Run* end) const {
    const int64_t most = grouping_.in_stretches() ? gathered_rows() / rows_ : 0;
    const Run* stop = run + 1;
    while (stop != end && stop->begin == stop[-1].end && stop->end - run->begin <= most) ++stop;
    return stop;
  }

  // How many entries of each model the tile computes; models with more than kMostTileRows rows
  // leave it. A step costs the same for one model and for 16, and more the larger the models; and
  // models that go alone need less time for each row, the more rows they have. Measured in
  // docs/internals.md, "Calls by slot in the lane layout".
  int64_t tile_steps(const Run* runs, int count) const {
    const int64_t most = kMostTileRows / rows_;
    if (count < least_lanes_ || most == 0) return 0;
    int with_at_least[kMostTileRows + 2] = {};  // models by their number of entries
    for (int r = 0; r < count; ++r) {
      const int64_t n = runs[r].end - runs[r].begin;
      if (n <= most) ++with_at_least[n];
    }
    for (int64_t n = most; n > 0; --n) {
      with_at_least[n] += with_at_least[n + 1];
      if (with_at_least[n] >= lanes_worth(n * rows_)) return n;
    }
    return 0;
  }
  // From how many models on the tile is faster, with so many rows of each.
  double lanes_worth(int64_t rows) const {
    const auto parameters = static_cast<double>(context_.architecture.num_parameters());
    const double computing = (2 + parameters / 85) * (1 + static_cast<double>(rows) / 8);
    return tiles_are_cached_ ? computing : std::max(computing, 8.0);
  }

  // Up to `steps` entries of each model with at most kMostTileRows rows, which leave the runs. The
  // other lanes compute on old contents of the buffer, and their results are not read.
  void compute_side_by_side(Task task, Run* runs, int count, int64_t steps, const Bytes* next,
                            const Scratch& scratch) const {
    const int64_t rows = steps * rows_;
    const LaneJob job = {found(task).address, next, scratch.x(), rows * context_.in, scratch.y(),
                         rows * context_.out, rows, kTileModels};
    const auto for_each_run = [&](auto visit) {
      for (int r = 0; r < count; ++r) {
        const int64_t n = runs[r].end - runs[r].begin;
        if (n > kMostTileRows / rows_) continue;
        visit(runs[r], grouping_.slot(runs[r].begin) % kTileModels, std::min(n, steps));
      }
    };
    for_each_run([&](const Run& run, int64_t lane, int64_t n) {
      gather(run.begin, n, scratch.x() + lane * job.x_stride);
    });
    context_.lane(context_.plan, job, scratch.kernel());
    for_each_run([&](Run& run, int64_t lane, int64_t n) {
      scatter(run.begin, n, scratch.y() + lane * job.y_stride);
      run.begin += n;
    });
  }

  const ForwardContext& context_;
  const Grouping& grouping_;
  const int64_t* const slots_;
  const int64_t entries_;
  const int64_t rows_;
  const Rows<const float> x_;
  const Rows<float> y_;
  const bool tiles_are_cached_;
  const double least_lanes_;   // for one entry of each
  int64_t first_missing_;      // an entry; entries_: none
  std::vector<Block> blocks_;  // by group
};

}  // namespace mlpbank
