#include "weights.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

#include "errors.h"
#include "threads.h"

namespace mlpbank {
namespace {

// Chunks of about this many bytes when several models are packed in parallel.
constexpr int64_t kPackChunkBytes = 256 << 10;
constexpr double kPackBytesPerNanosecond = 5;  // one thread, for an estimate
// Spare places are added this many at a time.
constexpr int64_t kSpareChunkBytes = 64 << 10;
constexpr const char* kWhat = "num_models x parameters";

std::mutex list_mutex;
BatchedWeights* list_first = nullptr;

}  // namespace

BatchedWeights::BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind, Dtype dtype)
    : architecture_(std::move(architecture)), layout_(architecture_, kind, dtype) {
  if (num_models <= 0) {
    throw std::invalid_argument("num_models: expected a positive integer, got " + std::to_string(num_models));
  }
  grow(num_models);
  enlist();
}

BatchedWeights::BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind, Dtype dtype,
                               ReadOnly base)
    : architecture_(std::move(architecture)), layout_(architecture_, kind, dtype), base_(std::move(base)) {
  const int64_t units = units_for(std::max<int64_t>(num_models, 0));
  const int64_t bytes = checked_mul(units, layout_.unit_bytes(), kWhat);
  if (num_models < 0 || base_.nbytes != bytes || reinterpret_cast<uintptr_t>(base_.data) % 64 != 0) {
    throw std::invalid_argument("base: expected " + std::to_string(bytes) + " bytes, 64-byte aligned, got " +
                                std::to_string(base_.nbytes));
  }
  append(num_models, base_.data);
  num_loaded_ = num_models;
  enlist();
}

BatchedWeights::~BatchedWeights() {
  const std::lock_guard lock(list_mutex);
  (before_ == nullptr ? list_first : before_->next_) = next_;
  if (next_ != nullptr) next_->before_ = before_;
}

// A fork takes all writers' mutexes first, so that the child finds every bank whole.
void BatchedWeights::enlist() {
  static const int handlers = pthread_atfork(lock_all, unlock_all, unlock_all_in_child);
  (void)handlers;
  const std::lock_guard lock(list_mutex);
  next_ = list_first;
  if (next_ != nullptr) next_->before_ = this;
  list_first = this;
}

void BatchedWeights::lock_all() {
  list_mutex.lock();
  for (BatchedWeights* w = list_first; w != nullptr; w = w->next_) w->mutex_.lock();
}

void BatchedWeights::unlock_all() {
  for (BatchedWeights* w = list_first; w != nullptr; w = w->next_) w->mutex_.unlock();
  list_mutex.unlock();
}

void BatchedWeights::unlock_all_in_child() {
  for (BatchedWeights* w = list_first; w != nullptr; w = w->next_) w->epochs_.forget_readers();
  unlock_all();
}

void BatchedWeights::check_model(int64_t model) const {
  if (model < 0 || model >= num_models()) {
    throw std::out_of_range("model_idx: expected 0 to " + std::to_string(num_models() - 1) + ", got " +
                            std::to_string(model));
  }
}

int64_t BatchedWeights::units_for(int64_t models) const {
  return models / layout_.unit_models() + (models % layout_.unit_models() != 0);
}

int64_t BatchedWeights::nbytes() const {
  const std::lock_guard lock(mutex_);
  int64_t bytes = base_.nbytes;
  for (const AlignedBuffer& chunk : chunks_) bytes += chunk.nbytes();
  return bytes;
}

void BatchedWeights::grow(int64_t count) {
  if (count <= 0) throw std::invalid_argument("count: expected a positive integer, got " + std::to_string(count));
  append(count, nullptr);
}

// Adds `count` models: unloaded ones with homes of their own, or those whose units are given.
void BatchedWeights::append(int64_t count, const Bytes* given) {
  const std::lock_guard lock(mutex_);
  const int64_t models = checked_add(num_models_, count, "num_models");
  const int64_t old_units = units_for(num_models_), units = units_for(models), added = units - old_units;
  if (added > 0) {
    const int64_t bytes = checked_mul(added, layout_.unit_bytes(), kWhat);
    Units table(new std::atomic<Bytes*>[static_cast<std::size_t>(units)]);
    for (int64_t u = 0; u < units; ++u) {
      // Never written to: a read-only home is never free.
      const int64_t offset = (u - old_units) * layout_.unit_bytes();
      Bytes* added_unit = given == nullptr ? nullptr : const_cast<Bytes*>(given) + offset;
      table[u].store(u < old_units ? table_[u].load() : added_unit, std::memory_order_relaxed);
    }
    retired_tables_.reserve(retired_tables_.size() + 1);
    homes_.reserve(static_cast<std::size_t>(units));
    home_free_.reserve(static_cast<std::size_t>(units));
    generations_.reserve(static_cast<std::size_t>(models));
    if (given == nullptr) chunks_.push_back(AlignedBuffer::of_bytes(bytes));
    Bytes* const homes = given == nullptr ? chunks_.back().bytes() : const_cast<Bytes*>(given);
    for (int64_t u = 0; u < added; ++u) homes_.push_back(homes + u * layout_.unit_bytes());
    home_free_.resize(static_cast<std::size_t>(units), given == nullptr);
    units_.store(table.get());
    retired_tables_.emplace_back(epochs_.stamp(), std::move(table_));
    table_ = std::move(table);
  }
  generations_.resize(static_cast<std::size_t>(models), given == nullptr ? 0 : 1);
  num_models_.store(models);
  reclaim();
}

// Free places for units [first, first + count): their homes, or spare ones. Makes room to retire as many, so that
// publish() cannot fail.
void BatchedWeights::take_places(int64_t first, int64_t count, std::vector<Bytes*>& places) {
  reclaim();
  places.reserve(static_cast<std::size_t>(count));
  retired_.reserve(retired_.size() + static_cast<std::size_t>(count));
  const auto homes = home_free_.begin() + first;
  const int64_t missing = std::count(homes, homes + count, false) - static_cast<int64_t>(spares_.size());
  if (missing > 0) {
    add_spares(std::max(missing, kSpareChunkBytes / layout_.unit_bytes()));
  }
  if (count > 1) std::sort(spares_.begin(), spares_.end(), std::greater<>());  // neighbours in order: one stream
  for (int64_t u = first; u < first + count; ++u) {
    const auto i = static_cast<std::size_t>(u);
    if (home_free_[i]) {
      places.push_back(homes_[i]);
      home_free_[i] = false;
    } else {
      places.push_back(spares_.back());
      spares_.pop_back();
    }
  }
}

void BatchedWeights::add_spares(int64_t count) {
  spares_.reserve(spares_.size() + static_cast<std::size_t>(count) + retired_.capacity());
  chunks_.push_back(AlignedBuffer::of_bytes(count * layout_.unit_bytes()));
  for (int64_t i = count; i-- > 0;) spares_.push_back(chunks_.back().bytes() + i * layout_.unit_bytes());
}

// Frees what no reader can see any more.
void BatchedWeights::reclaim() {
  std::size_t done = 0;
  while (done < retired_.size() && epochs_.passed(retired_[done].stamp)) {
    const Retired& old = retired_[done++];
    if (is_read_only(old.place)) continue;
    if (old.place == homes_[static_cast<std::size_t>(old.unit)]) {
      home_free_[static_cast<std::size_t>(old.unit)] = true;
    } else {
      spares_.push_back(old.place);
    }
  }
  retired_.erase(retired_.begin(), retired_.begin() + static_cast<std::ptrdiff_t>(done));
  while (!retired_tables_.empty() && epochs_.passed(retired_tables_.front().first)) {
    retired_tables_.erase(retired_tables_.begin());
  }
}

// Readers that start after this see the new place.
void BatchedWeights::publish(int64_t unit, Bytes* place) {
  const auto loaded = [&](const Bytes* p) { return p == nullptr ? 0 : layout_.models_in(p); };
  Bytes* old = table_[static_cast<std::size_t>(unit)].exchange(place);
  num_loaded_ += loaded(place) - loaded(old);
  if (old != nullptr) retired_.push_back({epochs_.stamp(), unit, old});
}

void BatchedWeights::load(int64_t first, int64_t count, const std::vector<LayerView>& views, int num_threads) {
  check_model(first);
  if (count > 1) check_model(first + count - 1);
  // Whole units are packed beside each other outside the lock; in the lane layout a tile that holds other models too is
  // copied and changed.
  const int64_t width = layout_.unit_models();
  const int64_t begin = std::min(first + count, (first + width - 1) / width * width);
  const int64_t end = std::max(begin, (first + count) / width * width);
  load_units(begin / width, end / width, begin - first, views, num_threads);
  const std::lock_guard lock(mutex_);
  if (first < begin) change_lanes(first, begin, views, 0);
  if (end < first + count) change_lanes(end, first + count, views, end - first);
  for (int64_t m = first; m < first + count; ++m) ++generations_[static_cast<std::size_t>(m)];
}

// Packs and publishes whole units; the first of their models is number `source` of the views.
void BatchedWeights::load_units(int64_t first, int64_t end, int64_t source, const std::vector<LayerView>& views,
                                int num_threads) {
  const int64_t count = end - first, width = layout_.unit_models();
  std::vector<Bytes*> places;
  {
    const std::lock_guard lock(mutex_);
    take_places(first, count, places);
  }
  const auto bytes = static_cast<double>(layout_.unit_bytes()) * static_cast<double>(count);
  const int64_t chunk = std::max<int64_t>(1, kPackChunkBytes / layout_.unit_bytes());
  const ChunkedWork work = {count, chunk, bytes / kPackBytesPerNanosecond};
  parallel_for(num_threads, work, [&](int64_t from, int64_t to) {
    for (int64_t u = from; u < to; ++u) layout_.pack(views, source + u * width, width, places[u], 0);
  });
  const std::lock_guard lock(mutex_);
  for (int64_t u = 0; u < count; ++u) publish(first + u, places[static_cast<std::size_t>(u)]);
}

// Replaces models [begin, end), all of one tile, or with no views unloads them. Call with the mutex held.
void BatchedWeights::change_lanes(int64_t begin, int64_t end, const std::vector<LayerView>& views, int64_t source) {
  const int64_t width = layout_.unit_models(), unit = begin / width;
  std::vector<Bytes*> place;
  take_places(unit, 1, place);
  const auto bytes = static_cast<std::size_t>(layout_.unit_bytes());
  if (const Bytes* old = table_[static_cast<std::size_t>(unit)].load()) {
    std::memcpy(place[0], old, bytes);
  } else {
    std::memset(place[0], 0, bytes);
  }
  if (views.empty()) {
    layout_.remove(place[0], begin % width);
  } else {
    layout_.pack(views, source, end - begin, place[0], begin % width);
  }
  publish(unit, place[0]);
}

void BatchedWeights::unload(int64_t model) {
  check_model(model);
  const std::lock_guard lock(mutex_);
  if (table_[static_cast<std::size_t>(model / layout_.unit_models())].load() == nullptr) return;
  if (layout_.unit_models() > 1) {
    change_lanes(model, model + 1, {}, 0);
  } else {
    retired_.reserve(retired_.size() + 1);
    publish(model, nullptr);
  }
}

int64_t BatchedWeights::generation(int64_t model) const {
  check_model(model);
  const std::lock_guard lock(mutex_);
  return generations_[static_cast<std::size_t>(model)];
}

void BatchedWeights::get(int64_t model, const std::vector<float*>& weight, const std::vector<float*>& bias) const {
  check_model(model);
  const Reader reader(*this);
  const Bytes* unit = reader.unit(model / layout_.unit_models());
  if (unit == nullptr || !layout_.has_model(unit, model % layout_.unit_models())) throw_not_loaded(model);
  layout_.unpack(unit, model % layout_.unit_models(), weight, bias);
}

std::vector<bool> BatchedWeights::loaded_flags() const {
  std::vector<bool> flags(static_cast<std::size_t>(num_models()));
  const Reader reader(*this);
  for (std::size_t m = 0; m < flags.size(); ++m) {
    const auto width = static_cast<std::size_t>(layout_.unit_models());
    const Bytes* unit = reader.unit(static_cast<int64_t>(m / width));
    flags[m] = unit != nullptr && layout_.has_model(unit, static_cast<int64_t>(m % width));
  }
  return flags;
}

BatchedWeights::Snapshot::Snapshot(std::shared_ptr<const BatchedWeights> weights)
    : weights_(std::move(weights)), reader_(*weights_) {
  const int64_t count = weights_->units_for(weights_->num_models());
  units_.reserve(static_cast<std::size_t>(count));
  // Without the mutex two models could be of two moments, and the table shorter than the number of models.
  const std::lock_guard lock(weights_->mutex_);
  for (int64_t u = 0; u < count; ++u) units_.push_back(weights_->table_[static_cast<std::size_t>(u)].load());
}

void BatchedWeights::Snapshot::copy(const int64_t* models, int64_t count, Bytes* out) const {
  const Layout& layout = weights_->layout_;
  const int64_t width = layout.unit_models();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t model = models[i];
    if (model < 0 || model / width >= static_cast<int64_t>(units_.size())) throw_not_loaded(model);
    const Bytes* unit = units_[static_cast<std::size_t>(model / width)];
    if (unit == nullptr || !layout.has_model(unit, model % width)) throw_not_loaded(model);
    layout.copy_model(unit, model % width, out + i / width * layout.unit_bytes(), i % width);
  }
}

std::vector<bool> BatchedWeights::copy_units(int64_t models, Bytes* out) const {
  const Reader reader(*this);
  std::vector<bool> there(static_cast<std::size_t>(units_for(models)));
  for (std::size_t u = 0; u < there.size(); ++u, out += layout_.unit_bytes()) {
    const Bytes* unit = reader.unit(static_cast<int64_t>(u));
    there[u] = unit != nullptr;
    if (there[u]) std::memcpy(out, unit, static_cast<std::size_t>(layout_.unit_bytes()));
  }
  return there;
}

void BatchedWeights::restore_units(const Bytes* units, const std::vector<bool>& there) {
  const std::lock_guard lock(mutex_);
  for (std::size_t u = 0; u < there.size(); ++u, units += layout_.unit_bytes()) {
    if (!there[u]) continue;
    const auto unit = static_cast<int64_t>(u);
    std::vector<Bytes*> place;
    take_places(unit, 1, place);
    std::memcpy(place[0], units, static_cast<std::size_t>(layout_.unit_bytes()));
    publish(unit, place[0]);
    for (int64_t lane = 0; lane < layout_.unit_models(); ++lane) {
      const int64_t model = unit * layout_.unit_models() + lane;
      if (layout_.has_model(place[0], lane)) generations_[static_cast<std::size_t>(model)] = 1;
    }
  }
}

void BatchedWeights::throw_not_loaded(int64_t model) {
  throw ModelNotLoaded("model " + std::to_string(model) + ": no weights were loaded");
}

}  // namespace mlpbank
