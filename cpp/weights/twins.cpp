// Twins: making, finding and freeing them.
#include "weights/twins.h"

#include <new>
#include <utility>

namespace mlpbank {

Twin* Twin::make(const Layout& tiles, const Layout& models, const Bytes* tile) {
  static_assert(sizeof(Twin) <= kHeaderBytes);
  AlignedBuffer memory = AlignedBuffer::of_bytes(kHeaderBytes + kTileModels * models.block_bytes());
  tiles.copy_tile(tile, models, memory.bytes() + kHeaderBytes);
  auto* const twin = new (memory.data()) Twin(tile, tiles.present_mask(tile));
  twin->memory_ = std::move(memory);
  return twin;
}

void Twin::destroy(Twin* twin) {
  const AlignedBuffer memory = std::move(twin->memory_);
  twin->~Twin();
}

RetiredTwins::~RetiredTwins() {
  destroy_all(added_.load());
  destroy_all(waiting_);
}

void RetiredTwins::destroy_all(Twin* first) {
  while (first != nullptr) Twin::destroy(std::exchange(first, first->next_));
}

void RetiredTwins::add(Twin* twin) {
  twin->next_ = added_.load();
  while (!added_.compare_exchange_weak(twin->next_, twin)) {
  }
}

void RetiredTwins::reclaim(Epochs& epochs) {
  if (waiting_ != nullptr) {
    if (!epochs.passed(stamp_)) return;
    destroy_all(std::exchange(waiting_, nullptr));
  }
  waiting_ = added_.exchange(nullptr);
  stamp_ = epochs.stamp();
}

TwinTable::~TwinTable() {
  for (int64_t i = 0; i < tiles_; ++i) {
    if (Twin* const twin = twins_[Size(i)].load()) Twin::destroy(twin);
  }
}

const Twin* TwinTable::get(int64_t i, const Layout& tiles, const Layout& models, const Bytes* tile,
                           RetiredTwins& retired) {
  std::atomic<Twin*>& place = twins_[Size(i)];
  Twin* found = place.load(std::memory_order_acquire);
  if (found != nullptr && found->tile() == tile) return found;
  Twin* const made = Twin::make(tiles, models, tile);
  if (place.compare_exchange_strong(found, made)) {
    if (found != nullptr) retired.add(found);
    return made;
  }
  if (found != nullptr && found->tile() == tile) {  // another thread was first
    Twin::destroy(made);
    return found;
  }
  retired.add(made);  // for this call alone
  return made;
}

void TwinTable::retire(int64_t i, RetiredTwins& retired) {
  if (tiles_ == 0) return;
  if (Twin* const twin = twins_[Size(i)].exchange(nullptr)) retired.add(twin);
}

}  // namespace mlpbank
