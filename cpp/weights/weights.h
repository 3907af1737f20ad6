// BatchedWeights: the weights of all models, and how they change while others read them.
//
// A table maps each unit (a model, or in the lane layout a tile of 16) to its place in memory. A load packs into a free
// place, publishes it with one atomic store, and retires the old one, which is free again once every reader that may
// have seen it has left (epochs.h). Readers take no lock and never wait. Nothing ever moves:
//
//   table      [ unit 0 | unit 1 | unit 2 | ... ]        pointers; a new table when the bank grows
//                  |        |        +-----------------------------------------+
//   chunks     [ home 0 | home 1 | home 2 | ... ]  [ spare | spare | ... ]     |
//                                                      ^----------------------+   unit 2 was swapped
//
// The first homes may be a read-only base, such as a mapped file: what replaces a model of it lies in a spare place.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "weights/architecture.h"
#include "buffer.h"
#include "weights/epochs.h"
#include "fork_lock.h"
#include "weights/layout.h"

namespace mlpbank {

// Memory that is only read, such as a mapped file, and what keeps it there.
struct ReadOnly {
  const Bytes* data;
  int64_t nbytes;
  std::shared_ptr<const void> owner;
};

class BatchedWeights {
 public:
  // All models start unloaded. Throws std::invalid_argument, std::overflow_error or std::bad_alloc.
  BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind, Dtype dtype = Dtype::float32);
  // All models, be it none, are those of `base`, whose units lie one behind the other, 64-byte aligned.
  BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind, Dtype dtype, ReadOnly base);
  BatchedWeights(const BatchedWeights&) = delete;
  BatchedWeights& operator=(const BatchedWeights&) = delete;

  const Architecture& architecture() const { return architecture_; }
  const Layout& layout() const { return layout_; }
  int64_t num_models() const { return num_models_.load(); }
  int64_t nbytes() const;
  bool has_base() const { return base_.data != nullptr; }
  // Where the first model lies unless it was swapped.
  const Bytes* data() const { return base_.data != nullptr ? base_.data : chunks_.front().bytes(); }

  // Packs `count` models from `first` on, see Layout::pack, and publishes them when all are packed. What it throws, it
  // throws before that, and nothing is changed: std::out_of_range, std::bad_alloc.
  void load(int64_t first, int64_t count, const std::vector<LayerView>& views, int num_threads);
  // `before` runs when nothing can fail any more, just before the model is gone. Throws as load() does.
  template <class Before>
  void unload(int64_t model, Before before) {
    check_model(model);
    Places places(*this, model / layout_.unit_models(), layout_.unit_models() > 1 ? 1 : 0);
    const std::lock_guard lock(lock_);
    before();
    remove(model, places);
  }
  void unload(int64_t model) {
    unload(model, [] {});
  }
  // Adds `count` unloaded models behind the others.
  void grow(int64_t count);
  // How often the model was loaded.
  int64_t generation(int64_t model) const;
  std::vector<bool> loaded_flags() const;
  // The weights of one loaded model: weight[l] (in * out floats) and bias[l] (out floats) receive layer l.
  void get(int64_t model, const std::vector<float*>& weight, const std::vector<float*>& bias) const;

  // The first `models` models as they lie in memory, for pickles: their units one behind the other. Returns which units
  // are there; of the others nothing is written.
  std::vector<bool> copy_units(int64_t models, Bytes* out) const;
  // The inverse, for weights of which nothing was loaded yet: `units` are those of all models.
  void restore_units(const Bytes* units, const std::vector<bool>& there);
  int64_t units_for(int64_t models) const;

  [[noreturn]] static void throw_not_loaded(int64_t model);

  // What one call sees. While it lives, the memory of all it has seen stays as it is.
  class Reader {
   public:
    explicit Reader(const BatchedWeights& weights)
        : weights_(weights), token_(weights.epochs_.enter()), units_(weights.units_.load()) {}
    ~Reader() { weights_.epochs_.leave(token_); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    // False in a forked child, where the memory of what this one sees may be used again.
    bool is_known() const { return weights_.epochs_.is_known(token_); }

    // The unit as it is now, null if none of its models was loaded. Two calls may see two generations.
    const Bytes* unit(int64_t i) const { return units_[i].load(std::memory_order_acquire); }
    bool all_loaded() const { return weights_.num_loaded_.load() == weights_.num_models(); }

   private:
    const BatchedWeights& weights_;
    Epochs::Token token_;
    const std::atomic<Bytes*>* units_;
  };

  // All models as they are at one moment. While it lives, no memory of replaced models is used again.
  class Snapshot {
   public:
    explicit Snapshot(std::shared_ptr<const BatchedWeights> weights);
    // Copies models[0 .. count) to as many units as they need, one behind the other; `out` holds zeros. Throws
    // ModelNotLoaded.
    void copy(const int64_t* models, int64_t count, Bytes* out) const;
    int64_t copied_bytes(int64_t count) const { return weights_->units_for(count) * weights_->layout().unit_bytes(); }

   private:
    std::shared_ptr<const BatchedWeights> weights_;
    Reader reader_;
    std::vector<const Bytes*> units_;
  };

 private:
  struct Retired {
    uint64_t stamp;
    int64_t unit;
    Bytes* place;
  };
  using Units = std::unique_ptr<std::atomic<Bytes*>[]>;

  // Free places for the units from `first` on, and room to retire as many: with them a change cannot fail any more.
  // Those that were not published become free again.
  class Places {
   public:
    Places(BatchedWeights& weights, int64_t first, int64_t count);
    ~Places();
    Places(const Places&) = delete;
    Places& operator=(const Places&) = delete;

    Bytes* of(int64_t unit) const { return places_[static_cast<std::size_t>(unit - first_)]; }
    // Readers that start after this see the place. Call with the lock held.
    void publish(int64_t unit);

   private:
    BatchedWeights& weights_;
    const int64_t first_;
    std::vector<Bytes*> places_;  // null: published
    int64_t retiring_;            // room that is left
  };

  void append(int64_t count, const Bytes* given);
  bool is_read_only(const Bytes* place) const { return place >= base_.data && place < base_.data + base_.nbytes; }
  void check_model(int64_t model) const;
  void change_lanes(int64_t begin, int64_t end, const std::vector<LayerView>& views, int64_t source, Bytes* place);
  void remove(int64_t model, Places& places);
  void take_places(int64_t first, int64_t count, std::vector<Bytes*>& places);
  void give_back(int64_t unit, Bytes* place);
  void make_room_to_retire(int64_t count);
  void add_spares(int64_t count);
  void reclaim();
  void publish(int64_t unit, Bytes* place);

  const Architecture architecture_;
  const Layout layout_;
  const ReadOnly base_{nullptr, 0, nullptr};
  std::atomic<int64_t> num_models_{0};
  std::atomic<int64_t> num_loaded_{0};
  std::atomic<std::atomic<Bytes*>*> units_{nullptr};
  mutable Epochs epochs_;

  // Writers only, with the lock held.
  mutable ForkLock lock_;
  Units table_;                                    // what units_ points to
  std::vector<std::pair<uint64_t, Units>> retired_tables_;
  std::vector<AlignedBuffer> chunks_;
  std::vector<Bytes*> homes_;                      // of each unit
  std::vector<bool> home_free_;
  std::vector<Bytes*> spares_;                     // free places that are nobody's home, with room for all there are
  int64_t num_spares_ = 0;                         // free or not
  std::vector<Retired> retired_;                   // oldest first, with room for retiring_ more
  int64_t retiring_ = 0;                           // units that running changes may retire
  std::vector<int64_t> generations_;
};

}  // namespace mlpbank
