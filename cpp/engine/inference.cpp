// BatchedInference: the steps that all forwards share, over dense or grouped tasks.
#include "engine/inference.h"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "engine/dense_tasks.h"
#include "engine/forward_context.h"
#include "engine/grouped_tasks.h"
#include "engine/grouping.h"
#include "engine/page_requests.h"
#include "engine/threads.h"

namespace mlpbank {
namespace {

thread_local Scratch thread_scratch;
thread_local Grouping thread_grouping;  // of the calling thread

// Whether slots are 0, 1, 2, ...
bool is_arange(const int64_t* slots, int64_t count) {
  constexpr int64_t kStep = 64;  // compared without a branch in between
  for (int64_t i = 0; i < count; i += kStep) {
    int64_t difference = 0;
    for (int64_t j = i; j < std::min(count, i + kStep); ++j) difference |= slots[j] ^ j;
    if (difference != 0) return false;
  }
  return true;
}

// Computes all tasks. Missing models give NaN, or throw before anything is written, as the options
// say. Throws afterwards if a model was unloaded meanwhile or a thread has no memory.
template <class Tasks>
void compute(const ForwardContext& context, const Tasks& tasks) {
  context.check_moment();
  if (!context.nan) tasks.check_present();
  if (tasks.rows() == 0) return;
  const int64_t gathered = tasks.gathered_rows();
  DeferredErrors errors;
  parallel_for(context.threads, tasks.work(), [&](int64_t begin, int64_t end) {
    Scratch& scratch = thread_scratch;  // finding a thread's own memory is a function call, so once
    if (!scratch.reserve(context.scratch_floats(), gathered * context.in, gathered * context.out)) {
      return errors.no_memory();
    }
    auto task = tasks.task(begin);
    const Bytes* block = tasks.block(task);
    for (int64_t i = begin; i < end; ++i) {
      request_ahead(context, tasks, i, begin, end);
      const auto next_task = tasks.after(task);
      const Bytes* next = i + 1 < end ? tasks.block(next_task) : block;
      try {
        if (block != nullptr) tasks.compute(task, block, next, scratch);
      } catch (const std::bad_alloc&) {
        return errors.no_memory();
      }
      tasks.for_each_missing(task, block, [&](int64_t slot, float* y, int64_t floats) {
        std::fill_n(y, floats, std::numeric_limits<float>::quiet_NaN());
        if (!context.nan) errors.not_loaded(slot);
      });
      task = next_task;
      block = next;
    }
  });
  errors.raise();
}

}  // namespace

BatchedInference::BatchedInference(std::shared_ptr<BatchedWeights> weights, Engine engine)
    : weights_(std::move(weights)), engine_(engine) {}

bool BatchedInference::runs_inline(int64_t models, int64_t rows) const {
  const Layout& layout = weights_->layout();
  const double nanoseconds =
      estimate(weights_->architecture(), layout, layout.num_blocks(models), models * rows);
  return !weights_->has_base() && nanoseconds < kShareNanoseconds;
}

void BatchedInference::forward(const float* x, int64_t rows, float* y,
                               const ForwardOptions& options) const {
  forward_dense(x, false, rows, y, options);
}

void BatchedInference::forward_shared(const float* x, int64_t rows, float* y,
                                      const ForwardOptions& options) const {
  forward_dense(x, true, rows, y, options);
}

void BatchedInference::forward_dense(const float* x, bool shared, int64_t rows, float* y,
                                     const ForwardOptions& options) const {
  const int64_t models = options.num_models > 0 ? options.num_models : weights_->num_models();
  const ForwardContext context(*weights_, engine_, options);
  compute(context, DenseTasks(context, x, shared, rows, y, models));
}

void BatchedInference::forward_models(const int64_t* slots, int64_t entries, const float* x,
                                      int64_t rows, float* y, const ForwardOptions& options) const {
  // Read before the guard takes its table, which therefore has at least as many slots.
  const int64_t num_models = weights_->num_models();
  // Looking for slots in order costs little next to grouping them.
  if (entries > 0 && entries <= num_models && is_arange(slots, entries)) {
    return forward_dense(x, false, rows, y,
                         {options.num_threads, options.missing, entries, options.moment});
  }
  const ForwardContext context(*weights_, engine_, options);
  Grouping& grouping = thread_grouping;
  grouping.group(slots, entries, GroupedTasks::wish(context, num_models, rows));
  compute(context, GroupedTasks(context, grouping, slots, entries, num_models, x, rows, y));
}

}  // namespace mlpbank
