// BatchedWeights: loading, unloading, growing and reading models.
#include "weights/weights.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/float_mode.h"
#include "engine/threads.h"
#include "errors.h"

namespace mlpbank {
namespace {

// A thread that packs several models takes about this many bytes at a time.
constexpr int64_t kPackChunkBytes = 256 << 10;
constexpr double kPackBytesPerNanosecond = 5;  // one thread, for an estimate
// Extra addresses are added so many bytes at a time.
constexpr int64_t kExtraBytes = 64 << 10;
constexpr const char* kWhat = "num_models x parameters";

// Makes room for `more` elements, so that adding them cannot fail. Grows in proportion, as
// push_back does.
template <class Vector>
void make_room(Vector& vector, std::size_t more) {
  const std::size_t needed = vector.size() + more;
  if (needed > vector.capacity()) vector.reserve(std::max(needed, 2 * vector.capacity()));
}

}  // namespace

BatchedWeights::BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind,
                               Dtype dtype)
    : architecture_(std::move(architecture)),
      layout_(architecture_, kind, dtype),
      panel_layout_(architecture_, LayoutKind::panel, dtype),
      lock_(ForkLock::weights, forget_readers, &epochs_) {
  if (num_models <= 0) {
    throw std::invalid_argument("num_models: expected a positive integer, got " +
                                std::to_string(num_models));
  }
  grow(num_models);
}

BatchedWeights::BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind,
                               Dtype dtype, ReadOnly base, const std::vector<int64_t>& vacant)
    : architecture_(std::move(architecture)),
      layout_(architecture_, kind, dtype),
      panel_layout_(architecture_, LayoutKind::panel, dtype),
      base_(std::move(base)),
      mapped_pages_(base_.is_mapped ? std::make_unique<MappedPages>(base_.data, base_.nbytes)
                                    : nullptr),
      lock_(ForkLock::weights, forget_readers, &epochs_) {
  const int64_t blocks = layout_.num_blocks(std::max<int64_t>(num_models, 0));
  const int64_t bytes = checked_mul(blocks, layout_.block_bytes(), kWhat);
  if (num_models < 0 || base_.nbytes != bytes ||
      reinterpret_cast<uintptr_t>(base_.data) % kBlockAlignment != 0) {
    throw std::invalid_argument("base: expected " + std::to_string(bytes) +
                                " bytes, 64-byte aligned, got " + std::to_string(base_.nbytes));
  }
  // An address in the base is never free.
  append(num_models, Memory::base);
  num_loaded_ = num_models - static_cast<int64_t>(vacant.size());
  if (layout_.block_models() > 1) return;  // present masks tell
  for (const int64_t slot : vacant) {
    check_slot(slot);
    table_->blocks[static_cast<std::size_t>(slot)].store(nullptr, std::memory_order_relaxed);
  }
}

void BatchedWeights::check_slot(int64_t slot) const {
  if (slot < 0 || slot >= num_models()) {
    throw std::out_of_range("model_idx: expected 0 to " + std::to_string(num_models() - 1) +
                            ", got " + std::to_string(slot));
  }
}

int64_t BatchedWeights::nbytes() const {
  const LockHeld lock(lock_);
  int64_t bytes = base_.nbytes;
  for (const AlignedBuffer& buffer : buffers_) bytes += buffer.nbytes();
  return bytes;
}

void BatchedWeights::grow(int64_t count) {
  if (count <= 0) {
    throw std::invalid_argument("count: expected a positive integer, got " + std::to_string(count));
  }
  append(count, Memory::own);
}

void BatchedWeights::extend(int64_t count, const std::vector<std::shared_ptr<const void>>& memory) {
  if (count > 0) append(count, Memory::none);
  const LockHeld lock(lock_);
  memory_.insert(memory_.end(), memory.begin(), memory.end());
}

void BatchedWeights::place(const std::vector<Placed>& blocks) {
  const LockHeld lock(lock_);
  for (const Placed& placed : blocks) {
    table_->twins.retire(placed.block, retired_twins_);
    const auto b = static_cast<std::size_t>(placed.block);
    const Bytes* const old = table_->blocks[b].exchange(const_cast<Bytes*>(placed.address));
    num_loaded_ += models_at(placed.address) - models_at(old);
  }
  reclaim(lock);
}

// Adds `count` slots: those of the models in the base, or empty ones.
void BatchedWeights::append(int64_t count, Memory memory) {
  const LockHeld lock(lock_);
  const int64_t models = checked_add(num_models_, count, "num_models");
  const int64_t old_blocks = layout_.num_blocks(num_models_), blocks = layout_.num_blocks(models);
  const int64_t added = blocks - old_blocks;
  const int64_t bytes = checked_mul(added, layout_.block_bytes(), kWhat);
  // The largest first: AddressSanitizer's operator new ends the process where aligned_alloc
  // refuses.
  AlignedBuffer buffer;
  if (added > 0 && memory == Memory::own) buffer = AlignedBuffer::of_bytes(bytes);
  revisions_.reserve(static_cast<std::size_t>(models));
  if (added > 0 || table_ == nullptr) {  // readers have a table, though it may be empty
    auto table = std::make_unique<Table>(blocks, layout_.kind() == LayoutKind::lane);
    make_room(retired_tables_, 1);
    initial_addresses_.reserve(static_cast<std::size_t>(blocks));
    initial_is_free_.reserve(static_cast<std::size_t>(blocks));
    make_room(buffers_, 1);
    // Nothing fails from here on.
    Bytes* first = const_cast<Bytes*>(base_.data);  // never written to
    if (memory == Memory::own) {
      buffers_.push_back(std::move(buffer));
      first = buffers_.back().bytes();
    }
    for (int64_t b = 0; b < old_blocks; ++b) {
      table->blocks[b].store(table_->blocks[b].load(), std::memory_order_relaxed);
    }
    for (int64_t b = old_blocks; b < blocks; ++b) {
      Bytes* const address =
          memory == Memory::none ? nullptr : first + (b - old_blocks) * layout_.block_bytes();
      initial_addresses_.push_back(address);
      initial_is_free_.push_back(memory == Memory::own);
      Bytes* const block = memory == Memory::base ? address : nullptr;
      table->blocks[b].store(block, std::memory_order_relaxed);
    }
    published_table_.store(table.get());
    retired_tables_.emplace_back(epochs_.stamp(), std::move(table_));
    table_ = std::move(table);
  }
  revisions_.resize(static_cast<std::size_t>(models), memory == Memory::base ? 1 : 0);
  num_models_.store(models);
  reclaim(lock);
}

BatchedWeights::Reservation::Reservation(BatchedWeights& weights, int64_t first, int64_t count)
    : weights_(weights), first_(first), num_retirable_(std::max<int64_t>(count, 1)) {
  const LockHeld lock(weights_.lock_);
  weights_.reclaim(lock);
  make_room(weights_.retired_, static_cast<std::size_t>(weights_.num_retirable_ + num_retirable_));
  weights_.take_addresses(lock, first, count, addresses_);
  weights_.num_retirable_ += num_retirable_;
}

BatchedWeights::Reservation::~Reservation() {
  const LockHeld lock(weights_.lock_);
  weights_.num_retirable_ -= num_retirable_;
  for (std::size_t i = 0; i < addresses_.size(); ++i) {
    if (addresses_[i] == nullptr) continue;
    weights_.free_address(lock, first_ + static_cast<int64_t>(i), addresses_[i]);
  }
}

void BatchedWeights::Reservation::publish(const LockHeld& lock, int64_t block) {
  weights_.publish(lock, block, address(block));
  addresses_[static_cast<std::size_t>(block - first_)] = nullptr;
}

// Takes free addresses for blocks [first, first + count): initial ones, or from the free list.
void BatchedWeights::take_addresses(const LockHeld& lock, int64_t first, int64_t count,
                                    std::vector<Bytes*>& addresses) {
  addresses.reserve(static_cast<std::size_t>(count));
  const auto initial = initial_is_free_.begin() + first;
  const int64_t missing =
      std::count(initial, initial + count, false) - static_cast<int64_t>(free_list_.size());
  if (missing > 0) {
    extend_free_list(lock, std::max(missing, kExtraBytes / layout_.block_bytes()));
  }
  // Neighbours in order of their addresses, so that they are read as one stream.
  if (count > 1) std::sort(free_list_.begin(), free_list_.end(), std::greater<>());
  for (int64_t b = first; b < first + count; ++b) {
    const auto i = static_cast<std::size_t>(b);
    if (initial_is_free_[i]) {
      addresses.push_back(initial_addresses_[i]);
      initial_is_free_[i] = false;
    } else {
      addresses.push_back(free_list_.back());
      free_list_.pop_back();
    }
  }
}

// Makes room on the free list for all extra addresses, so that freeing one never needs memory.
void BatchedWeights::extend_free_list(const LockHeld&, int64_t count) {
  make_room(free_list_, static_cast<std::size_t>(num_extra_addresses_ + count) - free_list_.size());
  make_room(buffers_, 1);
  buffers_.push_back(AlignedBuffer::of_bytes(count * layout_.block_bytes()));
  for (int64_t i = count; i-- > 0;) {
    free_list_.push_back(buffers_.back().bytes() + i * layout_.block_bytes());
  }
  num_extra_addresses_ += count;
}

// Takes back an address that no reader can see. Never fails.
void BatchedWeights::free_address(const LockHeld&, int64_t block, Bytes* address) {
  if (is_read_only(address)) return;
  if (address == initial_addresses_[static_cast<std::size_t>(block)]) {
    initial_is_free_[static_cast<std::size_t>(block)] = true;
  } else {
    free_list_.push_back(address);
  }
}

// Frees what no reader can see any more. Never fails.
void BatchedWeights::reclaim(const LockHeld& lock) {
  auto retired = retired_.begin();
  for (; retired != retired_.end() && epochs_.passed(retired->stamp); ++retired) {
    free_address(lock, retired->block, retired->address);
  }
  retired_.erase(retired_.begin(), retired);
  while (!retired_tables_.empty() && epochs_.passed(retired_tables_.front().first)) {
    retired_tables_.erase(retired_tables_.begin());
  }
  retired_twins_.reclaim(epochs_);
}

// Needs room to retire one block. Readers that start after this see the new address.
void BatchedWeights::publish(const LockHeld&, int64_t block, Bytes* address) {
  table_->twins.retire(block, retired_twins_);
  Bytes* old = table_->blocks[static_cast<std::size_t>(block)].exchange(address);
  num_loaded_ += models_at(address) - models_at(old);
  if (old != nullptr) retired_.push_back({epochs_.stamp(), block, old});
}

void BatchedWeights::load(int64_t first, int64_t count, const std::vector<LayerView>& views,
                          int num_threads) {
  check_slot(first);
  if (count > 1) check_slot(first + count - 1);
  // Blocks that get models for all their lanes, [begin, end) in slots, are packed without the lock.
  // A tile that keeps models of other slots is copied and changed with the lock held.
  const int64_t width = layout_.block_models(), last = first + count;
  const int64_t begin = std::min(last, (first + width - 1) / width * width);
  const int64_t end = std::max(begin, last / width * width);
  const int64_t first_block = first / width, end_block = (last + width - 1) / width;
  const int64_t whole = (end - begin) / width;
  Reservation reservation(*this, first_block, end_block - first_block);

  const double bytes = static_cast<double>(layout_.block_bytes()) * static_cast<double>(whole);
  const int64_t chunk = std::max<int64_t>(1, kPackChunkBytes / layout_.block_bytes());
  const ChunkedWork work = {whole, chunk, bytes / kPackBytesPerNanosecond};
  parallel_for(num_threads, work, [&](int64_t from, int64_t to) {
    for (int64_t b = begin / width + from; b < begin / width + to; ++b) {
      layout_.pack(views, b * width - first, width, reservation.address(b), 0);
    }
  });

  const DefaultFloatMode mode;
  const LockHeld lock(lock_);
  // Nothing fails from here on.
  if (first < begin) {
    rewrite_tile(lock, first, begin, views, 0, reservation.address(first_block));
  }
  if (end < last) {
    rewrite_tile(lock, end, last, views, end - first, reservation.address(end / width));
  }
  for (int64_t b = first_block; b < end_block; ++b) reservation.publish(lock, b);
  for (int64_t slot = first; slot < last; ++slot) ++revisions_[static_cast<std::size_t>(slot)];
}

// Writes the tile of slots [begin, end) to `to`: these slots from the views, if there are any, and
// the others as they are.
void BatchedWeights::rewrite_tile(const LockHeld&, int64_t begin, int64_t end,
                                  const std::vector<LayerView>& views, int64_t source, Bytes* to) {
  const int64_t width = layout_.block_models();
  const auto bytes = static_cast<std::size_t>(layout_.block_bytes());
  if (const Bytes* old = table_->blocks[static_cast<std::size_t>(begin / width)].load()) {
    std::memcpy(to, old, bytes);
  } else {
    std::memset(to, 0, bytes);
  }
  if (!views.empty()) layout_.pack(views, source, end - begin, to, begin % width);
}

void BatchedWeights::remove(const LockHeld& lock, int64_t slot, Reservation& reservation) {
  const int64_t width = layout_.block_models(), block = slot / width;
  const Bytes* old = table_->blocks[static_cast<std::size_t>(block)].load();
  if (old == nullptr || !layout_.has_model(old, slot % width)) return;
  if (width == 1) return publish(lock, block, nullptr);
  rewrite_tile(lock, slot, slot + 1, {}, 0, reservation.address(block));
  layout_.remove(reservation.address(block), slot % width);
  reservation.publish(lock, block);
}

int64_t BatchedWeights::revision(int64_t slot) const {
  check_slot(slot);
  const LockHeld lock(lock_);
  return revisions_[static_cast<std::size_t>(slot)];
}

void BatchedWeights::get(int64_t slot, const std::vector<LayerTarget>& targets) const {
  check_slot(slot);
  const DefaultFloatMode mode;
  const ReadGuard guard(*this);
  const int64_t lane = slot % layout_.block_models();
  const Bytes* block = guard.block(slot / layout_.block_models());
  if (block == nullptr || !layout_.has_model(block, lane)) throw_not_loaded(slot);
  layout_.unpack(block, lane, targets);
}

std::vector<bool> BatchedWeights::loaded_flags() const {
  std::vector<bool> flags(static_cast<std::size_t>(num_models()));
  const ReadGuard guard(*this);
  for (std::size_t i = 0; i < flags.size(); ++i) {
    const auto slot = static_cast<int64_t>(i), width = layout_.block_models();
    const Bytes* block = guard.block(slot / width);
    flags[i] = block != nullptr && layout_.has_model(block, slot % width);
  }
  return flags;
}

BatchedWeights::Snapshot::Snapshot(std::shared_ptr<const BatchedWeights> weights)
    : weights_(std::move(weights)), guard_(*weights_) {
  const int64_t count = weights_->layout_.num_blocks(weights_->num_models());
  blocks_.reserve(static_cast<std::size_t>(count));
  // Without the lock, two models could be of two moments, and the guard's table shorter than the
  // number of models.
  const LockHeld lock(weights_->lock_);
  for (int64_t b = 0; b < count; ++b) {
    blocks_.push_back(weights_->table_->blocks[static_cast<std::size_t>(b)].load());
  }
}

void BatchedWeights::Snapshot::copy(const int64_t* slots, int64_t count, Bytes* out) const {
  if (!guard_.is_known()) {
    throw InvalidState("snapshot: made before a fork, by the parent process");
  }
  const Layout& layout = weights_->layout_;
  const int64_t width = layout.block_models();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slot = slots[i];
    if (slot == -1) continue;
    if (slot < 0 || slot / width >= static_cast<int64_t>(blocks_.size())) throw_not_loaded(slot);
    const Bytes* block = blocks_[static_cast<std::size_t>(slot / width)];
    if (block == nullptr || !layout.has_model(block, slot % width)) throw_not_loaded(slot);
    layout.copy_model(block, slot % width, out + i / width * layout.block_bytes(), i % width);
  }
}

std::vector<bool> BatchedWeights::copy_blocks(int64_t models, Bytes* out) const {
  const ReadGuard guard(*this);
  std::vector<bool> present(static_cast<std::size_t>(layout_.num_blocks(models)));
  for (std::size_t b = 0; b < present.size(); ++b, out += layout_.block_bytes()) {
    const Bytes* block = guard.block(static_cast<int64_t>(b));
    present[b] = block != nullptr;
    if (present[b]) std::memcpy(out, block, static_cast<std::size_t>(layout_.block_bytes()));
  }
  return present;
}

void BatchedWeights::restore_blocks(const Bytes* blocks, const std::vector<bool>& present) {
  const auto count = static_cast<int64_t>(present.size()), width = layout_.block_models();
  Reservation reservation(*this, 0, count);
  const LockHeld lock(lock_);
  for (int64_t b = 0; b < count; ++b, blocks += layout_.block_bytes()) {
    if (!present[static_cast<std::size_t>(b)]) continue;
    std::memcpy(reservation.address(b), blocks, static_cast<std::size_t>(layout_.block_bytes()));
    for (int64_t slot = b * width; slot < std::min((b + 1) * width, num_models()); ++slot) {
      if (layout_.has_model(blocks, slot % width)) revisions_[static_cast<std::size_t>(slot)] = 1;
    }
    reservation.publish(lock, b);
  }
}

void BatchedWeights::throw_not_loaded(int64_t slot) {
  throw ModelNotLoaded("model " + std::to_string(slot) + ": no weights were loaded");
}

}  // namespace mlpbank
