#include "weights/weights.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

#include "errors.h"
#include "engine/float_mode.h"
#include "engine/threads.h"

namespace mlpbank {
namespace {

// Chunks of about this many bytes when several models are packed in parallel.
constexpr int64_t kPackChunkBytes = 256 << 10;
constexpr double kPackBytesPerNanosecond = 5;  // one thread, for an estimate
// Spare places are added this many at a time.
constexpr int64_t kSpareChunkBytes = 64 << 10;
constexpr const char* kWhat = "num_models x parameters";

// Room for `more` elements, so that adding them cannot fail. Grows in proportion, as push_back does.
template <class Vector>
void make_room(Vector& vector, std::size_t more) {
  const std::size_t needed = vector.size() + more;
  if (needed > vector.capacity()) vector.reserve(std::max(needed, 2 * vector.capacity()));
}

void forget_readers(void* epochs) { static_cast<Epochs*>(epochs)->forget_readers(); }

}  // namespace

BatchedWeights::BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind, Dtype dtype)
    : architecture_(std::move(architecture)), layout_(architecture_, kind, dtype),
      lock_(ForkLock::weights, forget_readers, &epochs_) {
  if (num_models <= 0) {
    throw std::invalid_argument("num_models: expected a positive integer, got " + std::to_string(num_models));
  }
  grow(num_models);
}

BatchedWeights::BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind, Dtype dtype,
                               ReadOnly base)
    : architecture_(std::move(architecture)), layout_(architecture_, kind, dtype), base_(std::move(base)),
      lock_(ForkLock::weights, forget_readers, &epochs_) {
  const int64_t units = units_for(std::max<int64_t>(num_models, 0));
  const int64_t bytes = checked_mul(units, layout_.unit_bytes(), kWhat);
  if (num_models < 0 || base_.nbytes != bytes || reinterpret_cast<uintptr_t>(base_.data) % 64 != 0) {
    throw std::invalid_argument("base: expected " + std::to_string(bytes) + " bytes, 64-byte aligned, got " +
                                std::to_string(base_.nbytes));
  }
  append(num_models, base_.data);
  num_loaded_ = num_models;
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
  const std::lock_guard lock(lock_);
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
  const std::lock_guard lock(lock_);
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
    make_room(retired_tables_, 1);
    homes_.reserve(static_cast<std::size_t>(units));
    home_free_.reserve(static_cast<std::size_t>(units));
    if (given == nullptr) {
      make_room(chunks_, 1);
      chunks_.push_back(AlignedBuffer::of_bytes(bytes));
    }
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

BatchedWeights::Places::Places(BatchedWeights& weights, int64_t first, int64_t count)
    : weights_(weights), first_(first), retiring_(std::max<int64_t>(count, 1)) {
  const std::lock_guard lock(weights_.lock_);
  weights_.reclaim();
  weights_.make_room_to_retire(retiring_);
  weights_.take_places(first, count, places_);
  weights_.retiring_ += retiring_;
}

BatchedWeights::Places::~Places() {
  const std::lock_guard lock(weights_.lock_);
  weights_.retiring_ -= retiring_;
  for (std::size_t i = 0; i < places_.size(); ++i) {
    if (places_[i] != nullptr) weights_.give_back(first_ + static_cast<int64_t>(i), places_[i]);
  }
}

void BatchedWeights::Places::publish(int64_t unit) {
  weights_.publish(unit, of(unit));
  places_[static_cast<std::size_t>(unit - first_)] = nullptr;
}

void BatchedWeights::make_room_to_retire(int64_t count) {
  make_room(retired_, static_cast<std::size_t>(retiring_ + count));
}

// Free places for units [first, first + count): their homes, or spare ones.
void BatchedWeights::take_places(int64_t first, int64_t count, std::vector<Bytes*>& places) {
  places.reserve(static_cast<std::size_t>(count));
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

// With room in spares_ for all there are, giving one back never needs memory.
void BatchedWeights::add_spares(int64_t count) {
  make_room(spares_, static_cast<std::size_t>(num_spares_ + count) - spares_.size());
  make_room(chunks_, 1);
  chunks_.push_back(AlignedBuffer::of_bytes(count * layout_.unit_bytes()));
  for (int64_t i = count; i-- > 0;) spares_.push_back(chunks_.back().bytes() + i * layout_.unit_bytes());
  num_spares_ += count;
}

// Takes back a place that nobody can see. Never fails.
void BatchedWeights::give_back(int64_t unit, Bytes* place) {
  if (is_read_only(place)) return;
  if (place == homes_[static_cast<std::size_t>(unit)]) {
    home_free_[static_cast<std::size_t>(unit)] = true;
  } else {
    spares_.push_back(place);
  }
}

// Frees what no reader can see any more. Never fails.
void BatchedWeights::reclaim() {
  std::size_t done = 0;
  while (done < retired_.size() && epochs_.passed(retired_[done].stamp)) {
    give_back(retired_[done].unit, retired_[done].place);
    ++done;
  }
  retired_.erase(retired_.begin(), retired_.begin() + static_cast<std::ptrdiff_t>(done));
  while (!retired_tables_.empty() && epochs_.passed(retired_tables_.front().first)) {
    retired_tables_.erase(retired_tables_.begin());
  }
}

// Needs room to retire. Readers that start after this see the new place.
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
  // copied and changed under it.
  const int64_t width = layout_.unit_models(), last = first + count;
  const int64_t begin = std::min(last, (first + width - 1) / width * width);
  const int64_t end = std::max(begin, last / width * width);
  const int64_t first_unit = first / width, end_unit = (last + width - 1) / width, whole = (end - begin) / width;
  Places places(*this, first_unit, end_unit - first_unit);

  const auto bytes = static_cast<double>(layout_.unit_bytes()) * static_cast<double>(whole);
  const int64_t chunk = std::max<int64_t>(1, kPackChunkBytes / layout_.unit_bytes());
  parallel_for(num_threads, {whole, chunk, bytes / kPackBytesPerNanosecond}, [&](int64_t from, int64_t to) {
    for (int64_t u = begin / width + from; u < begin / width + to; ++u) {
      layout_.pack(views, u * width - first, width, places.of(u), 0);
    }
  });

  const DefaultFloatMode mode;
  const std::lock_guard lock(lock_);  // from here on nothing fails
  if (first < begin) change_lanes(first, begin, views, 0, places.of(first_unit));
  if (end < last) change_lanes(end, last, views, end - first, places.of(end / width));
  for (int64_t u = first_unit; u < end_unit; ++u) places.publish(u);
  for (int64_t m = first; m < last; ++m) ++generations_[static_cast<std::size_t>(m)];
}

// Writes to `place` what the tile of models [begin, end) is to be: those from the views, the others as they are. Call
// with the lock held.
void BatchedWeights::change_lanes(int64_t begin, int64_t end, const std::vector<LayerView>& views, int64_t source,
                                  Bytes* place) {
  const int64_t width = layout_.unit_models();
  const auto bytes = static_cast<std::size_t>(layout_.unit_bytes());
  if (const Bytes* old = table_[static_cast<std::size_t>(begin / width)].load()) {
    std::memcpy(place, old, bytes);
  } else {
    std::memset(place, 0, bytes);
  }
  if (!views.empty()) layout_.pack(views, source, end - begin, place, begin % width);
}

// Call with the lock held.
void BatchedWeights::remove(int64_t model, Places& places) {
  const int64_t width = layout_.unit_models(), unit = model / width;
  const Bytes* old = table_[static_cast<std::size_t>(unit)].load();
  if (old == nullptr || !layout_.has_model(old, model % width)) return;
  if (width == 1) return publish(unit, nullptr);
  change_lanes(model, model + 1, {}, 0, places.of(unit));
  layout_.remove(places.of(unit), model % width);
  places.publish(unit);
}

int64_t BatchedWeights::generation(int64_t model) const {
  check_model(model);
  const std::lock_guard lock(lock_);
  return generations_[static_cast<std::size_t>(model)];
}

void BatchedWeights::get(int64_t model, const std::vector<float*>& weight, const std::vector<float*>& bias) const {
  check_model(model);
  const DefaultFloatMode mode;
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
  const std::lock_guard lock(weights_->lock_);
  for (int64_t u = 0; u < count; ++u) units_.push_back(weights_->table_[static_cast<std::size_t>(u)].load());
}

void BatchedWeights::Snapshot::copy(const int64_t* models, int64_t count, Bytes* out) const {
  if (!reader_.is_known()) throw InvalidState("snapshot: made before a fork, by the parent process");
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
  const auto count = static_cast<int64_t>(there.size()), width = layout_.unit_models();
  Places places(*this, 0, count);
  const std::lock_guard lock(lock_);
  for (int64_t u = 0; u < count; ++u, units += layout_.unit_bytes()) {
    if (!there[static_cast<std::size_t>(u)]) continue;
    std::memcpy(places.of(u), units, static_cast<std::size_t>(layout_.unit_bytes()));
    for (int64_t model = u * width; model < std::min((u + 1) * width, num_models()); ++model) {
      if (layout_.has_model(units, model % width)) generations_[static_cast<std::size_t>(model)] = 1;
    }
    places.publish(u);
  }
}

void BatchedWeights::throw_not_loaded(int64_t model) {
  throw ModelNotLoaded("model " + std::to_string(model) + ": no weights were loaded");
}

}  // namespace mlpbank
