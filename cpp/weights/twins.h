// Twins: the models of a tile once more, in the panel layout, for calls that name slots.
//
// In a tile each line of memory holds one weight of 16 models. A call for a few of them, or for
// many rows of one, would read and compute 16 models for one. So the first such call of a tile
// makes its twin, the same models one after another; the calls that follow find it:
//
//   addresses   [ tile 0 | tile 1 | tile 2 | ... ]
//   twins       [  null  | twin 1 |  null  | ... ]
//                              +--> [ address of tile 1, present mask | model 0 | ... | model 15 ]
//
// Readers make twins; none waits for another. A twin belongs to an address: where a load has
// published another one since, readers make another twin. Twins that are replaced are freed when no
// reader can see them any more (epochs.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "buffer.h"
#include "weights/epochs.h"
#include "weights/layout.h"

namespace mlpbank {

class Twin {
 public:
  // Throws std::bad_alloc.
  static Twin* make(const Layout& tiles, const Layout& models, const Bytes* tile);
  static void destroy(Twin* twin);

  const Bytes* tile() const { return tile_; }
  uint32_t present_mask() const { return present_mask_; }
  const Bytes* model(int64_t lane, int64_t model_bytes) const {
    return reinterpret_cast<const Bytes*>(this) + kHeaderBytes + lane * model_bytes;
  }

 private:
  friend class RetiredTwins;
  static constexpr int64_t kHeaderBytes = kBlockAlignment;

  Twin(const Bytes* tile, uint32_t present_mask) : tile_(tile), present_mask_(present_mask) {}

  const Bytes* const tile_;
  const uint32_t present_mask_;
  Twin* next_ = nullptr;  // of the retired ones
  AlignedBuffer memory_;  // of the twin itself, its models behind it
};

// Twins that are no longer found. Any thread adds one, without a lock; who has the lock of the
// weights frees them.
class RetiredTwins {
 public:
  RetiredTwins() = default;
  RetiredTwins(const RetiredTwins&) = delete;
  RetiredTwins& operator=(const RetiredTwins&) = delete;
  ~RetiredTwins();

  void add(Twin* twin);
  // Frees what no reader can see any more.
  void reclaim(Epochs& epochs);

 private:
  static void destroy_all(Twin* first);

  std::atomic<Twin*> added_{nullptr};
  Twin* waiting_ = nullptr;  // retired at the stamp
  uint64_t stamp_ = 0;
};

// The twins of a table of addresses, one for each tile or null.
class TwinTable {
 public:
  explicit TwinTable(int64_t tiles)
      : tiles_(tiles), twins_(tiles == 0 ? nullptr : new std::atomic<Twin*>[Size(tiles)]()) {}
  ~TwinTable();
  TwinTable(const TwinTable&) = delete;
  TwinTable& operator=(const TwinTable&) = delete;

  // The twin of tile i, null if there is none. It may belong to an address of before or after.
  const Twin* find(int64_t i) const { return twins_[Size(i)].load(std::memory_order_acquire); }
  // The twin of tile i at this address, made if there is none. Throws std::bad_alloc.
  const Twin* get(int64_t i, const Layout& tiles, const Layout& models, const Bytes* tile,
                  RetiredTwins& retired);
  // Before another address of tile i is published: an address that was used before must not find
  // the twin that it had then.
  void retire(int64_t i, RetiredTwins& retired);

 private:
  using Size = std::size_t;
  int64_t tiles_;
  std::unique_ptr<std::atomic<Twin*>[]> twins_;
};

}  // namespace mlpbank
