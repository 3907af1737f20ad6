#include "weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "errors.h"
#include "threads.h"

namespace mlpbank {
namespace {

constexpr std::size_t kAlign = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
// Chunks of about this many bytes when several models are packed in parallel.
constexpr int64_t kPackChunkBytes = 256 << 10;
constexpr double kPackBytesPerNanosecond = 5;  // one thread, for an estimate

int64_t buffer_floats(int64_t num_models, const Layout& layout) {
  constexpr const char* kWhat = "num_models x parameters";
  const int64_t units = num_models / layout.unit_models() + (num_models % layout.unit_models() != 0);
  const int64_t floats = checked_mul(units, layout.unit_floats(), kWhat);
  checked_mul(floats, static_cast<int64_t>(sizeof(float)), kWhat);
  return floats;
}

}  // namespace

AlignedBuffer::AlignedBuffer(int64_t floats) : floats_(floats) {
  const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
  const std::size_t align = bytes >= kHugePage ? kHugePage : kAlign;
  const std::size_t rounded = (bytes + align - 1) / align * align;
  if (rounded < bytes) throw std::bad_alloc();
  data_ = static_cast<float*>(std::aligned_alloc(align, std::max(rounded, align)));
  if (data_ == nullptr) throw std::bad_alloc();
  if (align == kHugePage) madvise(data_, rounded, MADV_HUGEPAGE);  // a wish: no harm where it is refused
  std::memset(data_, 0, bytes);
}

AlignedBuffer::~AlignedBuffer() { std::free(data_); }

void AlignedBuffer::swap(AlignedBuffer& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(floats_, other.floats_);
}

BatchedWeights::BatchedWeights(int64_t num_models, Architecture architecture, LayoutKind kind)
    : num_models_(num_models), architecture_(std::move(architecture)), layout_(architecture_, kind) {
  if (num_models <= 0) {
    throw std::invalid_argument("num_models: expected a positive integer, got " + std::to_string(num_models));
  }
  buffer_ = AlignedBuffer(buffer_floats(num_models, layout_));
  loaded_.resize(static_cast<std::size_t>(num_models));
}

void BatchedWeights::check_model(int64_t model) const {
  if (model < 0 || model >= num_models_) {
    throw std::out_of_range("model_idx: expected 0 to " + std::to_string(num_models_ - 1) + ", got " +
                            std::to_string(model));
  }
}

void BatchedWeights::load(int64_t first, int64_t count, const std::vector<LayerView>& views, int num_threads) {
  check_model(first);
  if (count > 1) check_model(first + count - 1);
  const std::lock_guard lock(mutex_);
  const int64_t unit_bytes = layout_.unit_floats() * static_cast<int64_t>(sizeof(float));
  const int64_t chunk_units = std::max<int64_t>(1, kPackChunkBytes / unit_bytes);
  // Whole tiles per chunk, so that no two threads write one cache line (`first` is 0 whenever count is not 1).
  const double bytes = static_cast<double>(unit_bytes) / static_cast<double>(layout_.unit_models()) * static_cast<double>(count);
  const ChunkedWork work = {count, chunk_units * layout_.unit_models(), bytes / kPackBytesPerNanosecond};
  parallel_for(num_threads, work, [&](int64_t begin, int64_t end) {
    layout_.pack(views, begin, end, first, buffer_.data());
  });
  for (int64_t m = first; m < first + count; ++m) {
    num_loaded_ += !loaded_[static_cast<std::size_t>(m)];
    loaded_[static_cast<std::size_t>(m)] = true;
  }
}

void BatchedWeights::get(int64_t model, const std::vector<float*>& weight, const std::vector<float*>& bias) const {
  check_model(model);
  const std::shared_lock lock(mutex_);
  if (!loaded(model)) throw_not_loaded(model);
  layout_.unpack(buffer_.data(), model, weight, bias);
}

void BatchedWeights::throw_not_loaded(int64_t model) {
  throw ModelNotLoaded("model " + std::to_string(model) + ": no weights were loaded");
}

std::vector<bool> BatchedWeights::loaded_flags() const {
  const std::shared_lock lock(mutex_);
  return loaded_;
}

}  // namespace mlpbank
