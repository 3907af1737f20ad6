// BatchedWeights: the weights of all models, and how they change while other threads read them.
//
// A model's number is its slot. A table maps each block (a model, or in the lane layout a tile of
// 16) to its address. A load packs into a free block of memory, publishes its address with one
// atomic store, and retires the old address, which becomes free when every reader that may have
// seen it has left (epochs.h). Readers take no lock and never wait. Blocks never move:
//
//   table     [ block 0 | block 1 | block 2 | ... ]      addresses; a new table when the bank grows
//                  |         |         +---------------------------------------+
//   buffers   [ initial | initial | initial | ... ]   [ extra | extra | ... ]  |
//                                                         ^--------------------+  after a swap
//
// Each block has an initial address of its own. The other addresses belong to no block; those that
// are not in use are on the free list. The first initial blocks may be a read-only base, such as a
// mapped file, whose models are replaced at other addresses. In a bank that follows a live folder
// all addresses lie in mapped files: place() publishes them, and nothing is ever retired.
//
// Methods that modify take the lock. Look-ups are lock-free unless stated.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "buffer.h"
#include "fork_lock.h"
#include "mapped_pages.h"
#include "weights/architecture.h"
#include "weights/epochs.h"
#include "weights/layout.h"
#include "weights/twins.h"

namespace mlpbank {

// Memory that is only read, and what keeps it alive.
struct ReadOnly {
  const Bytes* data;
  int64_t nbytes;
  std::shared_ptr<const void> owner;
  bool is_mapped = false;  // from a file
};

class BatchedWeights {
 private:
  // Addresses of all blocks, and the twins of tiles.
  struct Table {
    Table(int64_t num_blocks, bool tiles)
        : blocks(new std::atomic<Bytes*>[static_cast<std::size_t>(num_blocks)]),
          twins(tiles ? num_blocks : 0) {}
    std::unique_ptr<std::atomic<Bytes*>[]> blocks;
    TwinTable twins;
  };

 public:
  // All slots start without a model. Throws std::invalid_argument, std::overflow_error or
  // std::bad_alloc.
  BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind,
                 Dtype dtype = Dtype::float32);
  // The models of num_models slots (possibly 0) come from `base`: their blocks in order, 64-byte
  // aligned. The slots in `vacant` have none.
  BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind, Dtype dtype,
                 ReadOnly base, const std::vector<int64_t>& vacant = {});
  BatchedWeights(const BatchedWeights&) = delete;
  BatchedWeights& operator=(const BatchedWeights&) = delete;

  const Architecture& architecture() const { return architecture_; }
  const Layout& layout() const { return layout_; }
  // What single models are read in: layout() itself, or that of the twins of tiles.
  const Layout& panel_layout() const { return panel_layout_; }
  int64_t num_models() const { return num_models_.load(); }
  bool has_base() const { return base_.data != nullptr; }
  // The pages of a base that is a mapped file; null for others.
  MappedPages* mapped_pages() const { return mapped_pages_.get(); }
  // The initial address of block 0.
  const Bytes* data() const { return has_base() ? base_.data : buffers_.front().bytes(); }
  // Bytes of all blocks, the base included. Takes the lock.
  int64_t nbytes() const;

  // Packs `count` models into the slots from `first` on, see Layout::pack, and publishes them when
  // all are packed. Throws std::out_of_range or std::bad_alloc before anything has changed.
  void load(int64_t first, int64_t count, const std::vector<LayerView>& views, int num_threads);
  // Runs `before`, with the lock held, when nothing can fail any more and the model is still there.
  // Throws as load() does.
  template <class Before>
  void unload(int64_t slot, Before before) {
    check_slot(slot);
    Reservation reservation(*this, slot / layout_.block_models(),
                            layout_.block_models() > 1 ? 1 : 0);
    const LockHeld lock(lock_);
    before();
    remove(lock, slot, reservation);
  }
  void unload(int64_t slot) {
    unload(slot, [] {});
  }
  // Adds `count` slots behind the others.
  void grow(int64_t count);

  // A block in memory of others, as the kernels read it; null: it holds no model.
  struct Placed {
    int64_t block;
    const Bytes* address;
  };
  // For weights with a base that nothing was loaded into. Adds `count` slots (possibly 0) without
  // memory of their own, and keeps `memory`, which blocks are about to lie in.
  void extend(int64_t count, const std::vector<std::shared_ptr<const void>>& memory);
  // Publishes blocks one after the other. Never fails.
  void place(const std::vector<Placed>& blocks);
  // Calls that saw the same even number before and after saw the weights of one moment.
  uint64_t moment() const { return moment_.load(); }
  // While one lives, models are changing.
  class Change {
   public:
    explicit Change(BatchedWeights& weights) : weights_(weights) { ++weights_.moment_; }
    ~Change() { ++weights_.moment_; }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

   private:
    BatchedWeights& weights_;
  };

  // Counts the loads of a slot. Takes the lock.
  int64_t revision(int64_t slot) const;
  std::vector<bool> loaded_flags() const;
  // Unpacks one loaded model: targets[l] receives layer l, in * out weights and out biases.
  void get(int64_t slot, const std::vector<LayerTarget>& targets) const;

  // For pickles: copies the blocks of the first `models` slots as they lie in memory, in order.
  // Returns which blocks are present; the others are not written.
  std::vector<bool> copy_blocks(int64_t models, Bytes* out) const;
  // The inverse, for weights without a loaded model; `blocks` holds all blocks.
  void restore_blocks(const Bytes* blocks, const std::vector<bool>& present);

  [[noreturn]] static void throw_not_loaded(int64_t slot);

  // What one call sees. While it lives, no memory that it has seen is reclaimed.
  class ReadGuard {
   public:
    explicit ReadGuard(const BatchedWeights& weights)
        : weights_(weights),
          guard_(weights.epochs_),
          table_(weights.published_table_.load()),
          blocks_(table_->blocks.get()) {}

    // False in a forked child for a guard of the parent: what it saw may be overwritten.
    bool is_known() const { return guard_.is_known(); }
    // The block as it is now, null if it holds no model. Two calls may see two revisions.
    const Bytes* block(int64_t i) const { return blocks_[i].load(std::memory_order_acquire); }
    // The twin of tile i, which block() has found at this address. `find` gives null if there is
    // none yet; `get` makes it and may throw std::bad_alloc.
    const Twin* find_twin(int64_t i, const Bytes* tile) const {
      const Twin* const twin = table_->twins.find(i);
      return twin != nullptr && twin->tile() == tile ? twin : nullptr;
    }
    const Twin* get_twin(int64_t i, const Bytes* tile) const {
      return table_->twins.get(i, weights_.layout_, weights_.panel_layout_, tile,
                               weights_.retired_twins_);
    }
    // Brings what find_twin(i) reads into the cache.
    __attribute__((always_inline)) void prefetch_twin(int64_t i) const {
      __builtin_prefetch(table_->twins.find(i));
    }
    bool all_loaded() const { return weights_.num_loaded_.load() == weights_.num_models(); }

   private:
    const BatchedWeights& weights_;
    const EpochGuard guard_;
    Table* const table_;
    const std::atomic<Bytes*>* const blocks_;
  };

  // All models as they are at one moment. While it lives, no memory of replaced models is
  // reclaimed.
  class Snapshot {
   public:
    // Takes the lock.
    explicit Snapshot(std::shared_ptr<const BatchedWeights> weights);
    // Copies the models in slots[0 .. count) to as many blocks as they need, in order; `out` holds
    // zeros, and nothing is copied for a slot of -1. Throws ModelNotLoaded.
    void copy(const int64_t* slots, int64_t count, Bytes* out) const;
    int64_t copied_bytes(int64_t count) const {
      return weights_->layout().num_blocks(count) * weights_->layout().block_bytes();
    }

   private:
    std::shared_ptr<const BatchedWeights> weights_;
    ReadGuard guard_;
    std::vector<const Bytes*> blocks_;
  };

 private:
  struct Retired {
    uint64_t stamp;
    int64_t block;
    Bytes* address;
  };
  // Free addresses for `count` blocks from `first` on, and room to retire as many: a change that
  // has one cannot fail. Addresses that were not published become free again.
  class Reservation {
   public:
    Reservation(BatchedWeights& weights, int64_t first, int64_t count);
    ~Reservation();
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;

    Bytes* address(int64_t block) const {
      return addresses_[static_cast<std::size_t>(block - first_)];
    }
    // Readers that start after this see the block at its new address.
    void publish(const LockHeld& lock, int64_t block);

   private:
    BatchedWeights& weights_;
    const int64_t first_;
    const int64_t num_retirable_;
    std::vector<Bytes*> addresses_;  // null: published
  };

  // The memory of new slots.
  enum class Memory { own, base, none };
  void append(int64_t count, Memory memory);
  void check_slot(int64_t slot) const;
  bool is_read_only(const Bytes* address) const {
    return address >= base_.data && address < base_.data + base_.nbytes;
  }
  int64_t models_at(const Bytes* block) const {
    return block == nullptr ? 0 : layout_.models_in(block);
  }

  void rewrite_tile(const LockHeld&, int64_t begin, int64_t end,
                    const std::vector<LayerView>& views, int64_t source, Bytes* to);
  void remove(const LockHeld&, int64_t slot, Reservation& reservation);
  void publish(const LockHeld&, int64_t block, Bytes* address);
  void take_addresses(const LockHeld&, int64_t first, int64_t count,
                      std::vector<Bytes*>& addresses);
  void extend_free_list(const LockHeld&, int64_t count);
  void free_address(const LockHeld&, int64_t block, Bytes* address);
  void reclaim(const LockHeld&);

  const Architecture architecture_;
  const Layout layout_, panel_layout_;
  const ReadOnly base_{nullptr, 0, nullptr};
  const std::unique_ptr<MappedPages> mapped_pages_;
  std::atomic<int64_t> num_models_{0};
  std::atomic<int64_t> num_loaded_{0};
  std::atomic<uint64_t> moment_{0};               // odd while models change together
  std::atomic<Table*> published_table_{nullptr};  // what table_ owns
  mutable RetiredTwins retired_twins_;
  mutable Epochs epochs_;
  mutable ForkLock lock_;

  // Guarded by lock_.
  std::unique_ptr<Table> table_;
  std::vector<std::pair<uint64_t, std::unique_ptr<Table>>> retired_tables_;
  std::vector<AlignedBuffer> buffers_;
  std::vector<std::shared_ptr<const void>> memory_;  // that placed blocks lie in
  std::vector<Bytes*> initial_addresses_;            // by block
  std::vector<bool> initial_is_free_;                // by block
  std::vector<Bytes*> free_list_;                    // has room for all extra addresses
  int64_t num_extra_addresses_ = 0;                  // in use or on the free list
  std::vector<Retired> retired_;    // oldest first, with room for num_retirable_ more
  int64_t num_retirable_ = 0;       // blocks that all reservations may retire
  std::vector<int64_t> revisions_;  // by slot
};

}  // namespace mlpbank
