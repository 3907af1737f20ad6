// BatchedWeights: the weights of all models, contiguous and 64-byte aligned, and which of them are loaded.
#pragma once

#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <vector>

#include "architecture.h"
#include "layout.h"

namespace mlpbank {

// Zeroed, 64-byte aligned floats. Large ones ask for huge pages: a stream of weights then misses the TLB 512 times less.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t floats);
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }

  float* data() const { return data_; }
  int64_t size() const { return floats_; }

 private:
  void swap(AlignedBuffer& other) noexcept;

  float* data_ = nullptr;
  int64_t floats_ = 0;
};

class BatchedWeights {
 public:
  // All models start unloaded. Throws std::invalid_argument, std::overflow_error or std::bad_alloc.
  BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind);

  int64_t num_models() const { return num_models_; }
  const Architecture& architecture() const { return architecture_; }
  const Layout& layout() const { return layout_; }
  int64_t nbytes() const { return buffer_.size() * static_cast<int64_t>(sizeof(float)); }
  const float* data() const { return buffer_.data(); }

  // Whoever reads weights or `loaded` holds this shared for as long as it reads; loading takes it alone.
  std::shared_mutex& mutex() const { return mutex_; }

  // Packs `count` models from `first` on, see Layout::pack; throws std::out_of_range before anything is touched.
  void load(int64_t first, int64_t count, const std::vector<LayerView>& views, int num_threads);
  // The weights of one loaded model: weight[l] (in * out floats) and bias[l] (out floats) receive layer l.
  void get(int64_t model, const std::vector<float*>& weight, const std::vector<float*>& bias) const;

  // Call with the mutex held.
  bool all_loaded() const { return num_loaded_ == num_models_; }
  bool loaded(int64_t model) const { return loaded_[static_cast<std::size_t>(model)]; }
  [[noreturn]] static void throw_not_loaded(int64_t model);

  std::vector<bool> loaded_flags() const;

 private:
  void check_model(int64_t model) const;

  int64_t num_models_;
  Architecture architecture_;
  Layout layout_;
  AlignedBuffer buffer_;
  std::vector<bool> loaded_;
  int64_t num_loaded_ = 0;
  mutable std::shared_mutex mutex_;
};

}  // namespace mlpbank
