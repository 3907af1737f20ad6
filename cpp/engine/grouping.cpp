#include "engine/grouping.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace mlpbank {

void Grouping::group(const int64_t* models, int64_t entries, int64_t num_models, int64_t unit_models,
                     int64_t max_entries) {
  constexpr int64_t kLimit = int64_t{1} << 32;
  if (entries >= kLimit || num_models > kLimit) throw std::overflow_error("models: expected fewer than 2^32");
  keys_.resize(static_cast<std::size_t>(entries));
  bool ascending = true;
  int64_t before = 0;
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t model = models[i];
    if (model < 0 || model >= num_models) {
      throw std::out_of_range("models[" + std::to_string(i) + "]: expected 0 to " + std::to_string(num_models - 1) +
                              ", got " + std::to_string(model));
    }
    ascending &= before <= model;
    before = model;
    keys_[static_cast<std::size_t>(i)] = static_cast<uint64_t>(model) << 32 | static_cast<uint64_t>(i);
  }
  if (!ascending) sort(num_models);

  pieces_.clear();
  const int shift = unit_models > 1 ? __builtin_ctzll(static_cast<uint64_t>(unit_models)) : 0;  // 1 or 16: no division
  Piece piece = {-1, 0, 0};
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t unit = model(i) >> shift;
    if (unit != piece.unit || i - piece.begin >= max_entries) {
      if (i > 0) pieces_.push_back(piece);
      piece = {unit, i, i};
    }
    piece.end = i + 1;
  }
  if (entries > 0) pieces_.push_back(piece);
}

// Least-significant-digit radix sort by model: stable, and as many passes as the largest model number needs. The keys
// carry their entries along, so every pass reads memory in order; sorting entry numbers that point to their models took
// twice as long.
void Grouping::sort(int64_t num_models) {
  constexpr int kDigitBits = 11;
  constexpr uint64_t kDigits = uint64_t{1} << kDigitBits;
  spare_.resize(keys_.size());
  for (int shift = 32; (num_models - 1) >> (shift - 32) != 0; shift += kDigitBits) {
    uint32_t start[kDigits + 1] = {};
    for (const uint64_t key : keys_) ++start[(key >> shift & (kDigits - 1)) + 1];
    std::partial_sum(start, start + kDigits + 1, start);
    for (const uint64_t key : keys_) spare_[start[key >> shift & (kDigits - 1)]++] = key;
    keys_.swap(spare_);
  }
}

}  // namespace mlpbank
