// Bank: the models of a BatchedWeights by key, added, replaced and removed while others predict.
//
// Changes are made one at a time, each as a whole or not at all. Look-ups are lock-free unless
// stated. A thread that uses a slot it has looked up is inside a Bank::Guard: the slot of a removed
// model is given to another model only when every guard that may have seen it is gone.
//
// A bank may follow a folder instead, in which any process may change models (docs/live.md). Then
// follow() alone changes it, slots are given out by the folder, and calls see models of one moment
// (BatchedWeights::moment).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bank/model_columns.h"
#include "bank/reuse_counts.h"
#include "bank/slot_map.h"
#include "fork_lock.h"
#include "weights/epochs.h"
#include "weights/weights.h"

namespace mlpbank {

class Bank {
 public:
  static constexpr int kSlotBits = 32;  // of a handle; the bits above are the slot's reuse count

  // A slot that has lost `most_reuses` models is not used again.
  Bank(std::shared_ptr<BatchedWeights> weights, std::shared_ptr<const KeyTable> table,
       const ModelColumns& columns, uint32_t most_reuses);

  const SlotMap& keys() const { return keys_; }
  const std::shared_ptr<BatchedWeights>& weights() const { return weights_; }
  // Slots from here on never had a model. The weights have room for more.
  int64_t num_used_slots() const { return num_used_slots_.load(); }

  // Until it leaves, no slot that was found in this bank is given to another model.
  class Guard {
   public:
    explicit Guard(std::shared_ptr<Bank> bank) : bank_(std::move(bank)), guard_(bank_->epochs_) {}
    void leave() {
      guard_.leave();
      bank_ = nullptr;
    }

   private:
    std::shared_ptr<Bank> bank_;
    EpochGuard guard_;
  };

  // Runs `look_up`, which looks up many keys, until all its answers are of one moment: a call must
  // not find a key in one row and miss it in the next. Takes the lock only where changes come
  // faster than look-ups.
  template <class LookUp>
  void at_one_moment(LookUp look_up) const {
    constexpr int kTries = 4;
    for (int i = 0; i < kTries; ++i) {
      const uint64_t before = keys_.moment();
      look_up();
      if (before % 2 == 0 && keys_.moment() == before) return;
    }
    const LockHeld lock(lock_);
    look_up();
  }
  // The slot or handle of a key, or kNoSlot. The caller is inside a Guard.
  int64_t find(const KeyView& key) const { return keys_.find(key); }
  int64_t find_handle(const KeyView& key) const;
  // The same for many keys, each at less cost. A key of another type, such as none, is unknown.
  // Handles are right where it runs inside at_one_moment.
  void find_many(const KeyView* keys, int64_t count, int64_t* slots) const {
    keys_.find_many(keys, count, slots);
  }
  void find_handles(const KeyView* keys, int64_t count, int64_t* handles) const;
  // The slot of a handle; kNoSlot, with `stale` set, if its model was removed. A negative number is
  // not a handle and is returned unchanged.
  int64_t slot_of(int64_t handle, bool& stale) const;

  // Changes. One that throws has changed nothing.
  // Adds or replaces. Throws KeyTypeError or std::bad_alloc.
  void add(const KeyView& key, const std::string& version, double loaded_at,
           const std::vector<LayerView>& views);
  // False: there is no such model. Throws std::bad_alloc.
  bool remove(const KeyView& key);
  void set_key_type(KeyType type);

  // What a folder tells of one change of a model.
  struct Followed {
    uint64_t sequence = 0;  // its number
    bool is_removal = false;
    int64_t slot = 0;
    KeyType type = KeyType::none;
    std::string text;  // of the key, or its number
    int64_t number = 0;
    ModelRecord record;        // of a load
    uint32_t reuse_count = 0;  // of the slot, after the change
    // Where the block lies that holds the slot after the change, and its CRC-32. Segment negative:
    // there is none. Checksum negative: it is not known.
    int64_t segment = -1, offset = 0, checksum = -1;
    const Bytes* block = nullptr;  // there
    bool is_checked = false;       // that its bytes have this CRC-32

    KeyView key() const { return {type, text, number}; }
  };
  // Makes changes in their order, visible to others all at once, and keeps the memory they lie in.
  // They come after change `after`: false if another thread has been faster. Throws
  // std::invalid_argument, KeyTypeError or std::bad_alloc. Then, too, nothing has changed.
  bool follow(const std::vector<Followed>& changes, uint64_t after, uint64_t sequence,
              std::list<std::shared_ptr<const void>> memory);
  // The number of the last change: that was followed, or how many were made here.
  uint64_t sequence() const { return sequence_.load(); }
  // Slots below num_used_slots() that have no model and may be used again, at most `count`.
  std::vector<int64_t> vacant_slots(int64_t count) const;
  uint32_t reuse_count(int64_t slot) const { return reuse_counts_.of(slot); }

  // False: there is no such model. Takes the lock.
  bool info(const KeyView& key, ModelRecord& record) const;

  // The models at one moment: what was changed since the bank was made, and all weights.
  struct Frozen {
    struct Key {
      std::string text;
      int64_t number;
      int64_t slot;
    };
    std::vector<Key> added;  // keys that are not in the table, in the order of addition
    std::vector<Key> moved;  // keys of the table that were removed (kNoSlot) or added again
    std::vector<std::pair<int64_t, ModelRecord>> records;  // by slot, of models that were loaded
    std::shared_ptr<BatchedWeights::Snapshot> weights;
    KeyType key_type;
    uint64_t sequence;
    std::vector<uint32_t> reuse_counts;  // of all slots that were used, with the weights
  };
  // Takes the lock.
  Frozen freeze(bool with_weights) const;

 private:
  struct FreeSlot {
    int64_t slot;
    uint64_t stamp;  // of the removal
  };

  int64_t handle_of(int64_t slot) const {
    return slot | static_cast<int64_t>(reuse_counts_.of(slot)) << kSlotBits;
  }
  // What follow() is about to do.
  struct Plan;
  Plan plan(const LockHeld&, const std::vector<Followed>& changes);
  // Slots are added by the quarter, so that adding models one by one copies few tables.
  static int64_t growth(int64_t num_slots) {
    return std::min<int64_t>(std::max<int64_t>(16, num_slots / 4), 4096);
  }
  void check_key_type(const LockHeld&, KeyType type) const;
  ModelRecord record_of(const LockHeld&, int64_t slot) const;

  const std::shared_ptr<BatchedWeights> weights_;
  const ModelColumns columns_;
  const uint32_t most_reuses_;
  mutable Epochs epochs_;
  mutable ForkLock lock_;
  SlotMap keys_;
  ReuseCounts reuse_counts_;
  std::atomic<int64_t> num_used_slots_;
  std::atomic<uint64_t> sequence_{0};

  // Guarded by lock_.
  std::unordered_map<int64_t, ModelRecord> records_;  // by slot, of models loaded since
  std::deque<FreeSlot> free_slots_;                   // oldest first
  std::set<int64_t> vacant_;  // of a bank that follows; free_slots_ are those of others
};

}  // namespace mlpbank
