// RowOrder: the rows of a table sorted by the slots of their models. A forward then reads rows and
// models one after the other, and no row has to be gathered.
#pragma once

#include <cstdint>
#include <vector>

namespace mlpbank {

class RowOrder {
 public:
  static constexpr int64_t kMostRows = (int64_t{1} << 32) - 1;

  // Rows without a model, whose slot is negative, come last. Throws std::out_of_range for a slot of
  // num_slots or more.
  RowOrder(const int64_t* slots, int64_t count, int64_t num_slots);

  int64_t num_rows() const { return static_cast<int64_t>(positions_.size()); }
  // Where each row goes.
  const std::vector<uint32_t>& positions() const { return positions_; }
  // The slots of rows that have a model, in order.
  const std::vector<int64_t>& slots() const { return slots_; }

  // to[o * num_rows() + i] = output o of row i, from sorted (slots().size(), outputs); NaN for rows
  // without a model.
  void restore(const float* sorted, int64_t outputs, int threads, float* to) const;

 private:
  std::vector<uint32_t> positions_;
  std::vector<int64_t> slots_;
};

}  // namespace mlpbank
