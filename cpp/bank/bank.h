// Bank: the models of a BatchedWeights by key, added, replaced and removed while others predict.
//
// Changes are made one at a time, each done or not at all; look-ups take no lock. Whoever uses a slot that it looked up
// holds a Reader meanwhile: the slot of a removed model is given to another one only when every reader that may have
// seen it has left.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "weights/epochs.h"
#include "fork_lock.h"
#include "bank/slot_map.h"
#include "weights/weights.h"

namespace mlpbank {

// What is known of a model beside its weights.
struct ModelRecord {
  std::string version;  // UTF-8; empty: none
  int64_t generation = 0;
  double loaded_at = 0;  // seconds since 1970
};

// Records of the models that a bank begins with, by slot, in memory that somebody keeps.
struct RecordColumns {
  int64_t count = 0;
  const int64_t* generations = nullptr;
  const double* loaded_at = nullptr;
  const uint64_t* version_offsets = nullptr;  // count + 1
  const char* version_bytes = nullptr;
  uint64_t num_version_bytes = 0;
  std::shared_ptr<const void> owner;

  ModelRecord get(int64_t slot) const;
};

// How many models each slot has lost: the upper half of an id, so that ids of removed models are known as such.
class ReuseCounts {
 public:
  ReuseCounts() = default;
  ~ReuseCounts();
  uint32_t of(int64_t slot) const;
  // Writers. Makes room for a slot; throws std::bad_alloc.
  void reserve(int64_t slot);
  // Never fails where room was made.
  uint32_t increment(int64_t slot);

 private:
  static constexpr int kChunks = 40;
  static constexpr int64_t kFirst = 1024;  // slots of the first chunk; each further one has twice as many
  static int chunk_of(int64_t slot, int64_t& offset);
  std::atomic<std::atomic<uint32_t>*> chunks_[kChunks] = {};
};

class Bank {
 public:
  static constexpr int kSlotBits = 32;  // of an id; the bits above are the slot's reuse count

  // `most_reuses`: a slot that has lost so many models is not used again.
  Bank(std::shared_ptr<BatchedWeights> weights, std::shared_ptr<const KeyTable> table, RecordColumns records,
       uint32_t most_reuses);

  const SlotMap& keys() const { return keys_; }
  const std::shared_ptr<BatchedWeights>& weights() const { return weights_; }

  // While it lives, no slot that was found through this bank is given to another model. It may be left early.
  class Reader {
   public:
    explicit Reader(std::shared_ptr<Bank> bank) : bank_(std::move(bank)), token_(bank_->epochs_.enter()) {}
    ~Reader() { leave(); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    void leave() {
      if (bank_ != nullptr) bank_->epochs_.leave(token_);
      bank_ = nullptr;
    }

   private:
    std::shared_ptr<Bank> bank_;
    Epochs::Token token_;
  };

  // Runs `look`, which looks many keys up and may be run again, so that all its answers are of one moment: one call
  // must not find a key in one row and miss it in the next. Waits for changes only where they come faster than look-ups.
  template <class Look>
  void at_one_moment(Look look) const {
    constexpr int kTries = 4;
    for (int i = 0; i < kTries; ++i) {
      const uint64_t before = keys_.moment();
      look();
      if (before % 2 == 0 && keys_.moment() == before) return;
    }
    const std::lock_guard lock(lock_);
    look();
  }
  // The slot of a key, or kNoSlot. Call with a reader.
  int64_t find(const KeyView& key) const { return keys_.find(key); }
  // The id of a key, or kNoSlot. Call with a reader.
  int64_t find_id(const KeyView& key) const;
  // The slot of an id, or kNoSlot where the model of the id was removed. What is below 0 is no id and stays as it is.
  int64_t slot_of(int64_t id, bool& stale) const;

  // Each change is done or, whatever it throws, nothing is changed.
  // Adds or replaces. Throws KeyKindError, std::bad_alloc.
  void add(const KeyView& key, const std::string& version, double loaded_at, const std::vector<LayerView>& views);
  // False: there is no such model. Throws std::bad_alloc.
  bool remove(const KeyView& key);
  void set_kind(KeyKind kind);
  // False: there is no such model.
  bool info(const KeyView& key, ModelRecord& record) const;

  // The models at one moment: what was changed since the bank was made, and all weights.
  struct Frozen {
    struct Key {
      std::string text;
      int64_t number;
      int64_t slot;
    };
    std::vector<Key> added;                 // keys that are not in the table, in the order of addition
    std::vector<Key> moved;                 // keys of the table that were removed (slot kNoSlot) or added again
    std::vector<std::pair<int64_t, ModelRecord>> records;  // by slot, of models that were loaded
    std::shared_ptr<BatchedWeights::Snapshot> weights;
    KeyKind kind;
  };
  Frozen freeze(bool with_weights) const;

 private:
  struct FreeSlot {
    int64_t slot;
    uint64_t stamp;  // of the removal
  };

  int64_t grow_by(int64_t slot) const;
  ModelRecord record_of(int64_t slot) const;

  const std::shared_ptr<BatchedWeights> weights_;
  const RecordColumns base_;
  const uint32_t most_reuses_;
  mutable Epochs epochs_;
  mutable ForkLock lock_;
  SlotMap keys_;
  ReuseCounts counts_;

  // With the lock held.
  std::unordered_map<int64_t, ModelRecord> records_;  // by slot, of models that were loaded since
  int64_t used_;                                      // slots from here on were never used
  std::list<FreeSlot> free_;                          // oldest first
};

}  // namespace mlpbank
