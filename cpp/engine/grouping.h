// Sorting a call's entries by the model they go to.
#pragma once

#include <cstdint>
#include <vector>

namespace mlpbank {

// Entries whose models lie in one unit (a model, or a tile of 16), at most `max_entries` of them: positions
// [begin, end) of the sorted entries.
struct Piece {
  int64_t unit, begin, end;
};

class Grouping {
 public:
  // Linear in `entries`. Throws std::out_of_range naming the first position whose model is not in [0, num_models), and
  // std::overflow_error from 2^32 entries on.
  void group(const int64_t* models, int64_t entries, int64_t num_models, int64_t unit_models, int64_t max_entries);

  // The entries sorted by model, those of one model in their order: which entry stands at position i, and its model.
  int64_t entry(int64_t i) const { return static_cast<int64_t>(keys_[static_cast<std::size_t>(i)] & 0xffffffff); }
  int64_t model(int64_t i) const { return static_cast<int64_t>(keys_[static_cast<std::size_t>(i)] >> 32); }
  const std::vector<Piece>& pieces() const { return pieces_; }

 private:
  void sort(int64_t num_models);

  std::vector<uint64_t> keys_;  // model << 32 | entry
  std::vector<uint64_t> spare_;
  std::vector<Piece> pieces_;
};

}  // namespace mlpbank
