#include "grouping.h"

#include <numeric>
#include <stdexcept>
#include <string>

namespace mlpbank {
namespace {

// Whether the models ascend, after checking each.
bool check_models(const int64_t* models, int64_t entries, int64_t num_models) {
  bool ascending = true;
  for (int64_t i = 0; i < entries; ++i) {
    if (models[i] < 0 || models[i] >= num_models) {
      throw std::out_of_range("models[" + std::to_string(i) + "]: expected 0 to " + std::to_string(num_models - 1) +
                              ", got " + std::to_string(models[i]));
    }
    ascending &= i == 0 || models[i - 1] <= models[i];
  }
  return ascending;
}

// Least-significant-digit radix sort: stable, and as many passes as the largest model number needs.
void sort_by_model(const int64_t* models, int64_t num_models, std::vector<int64_t>& order) {
  constexpr int kDigitBits = 8;
  std::vector<int64_t> sorted(order.size());
  for (int shift = 0; (num_models - 1) >> shift != 0; shift += kDigitBits) {
    const auto digit = [&](int64_t entry) { return models[entry] >> shift & ((1 << kDigitBits) - 1); };
    int64_t start[(1 << kDigitBits) + 1] = {};
    for (const int64_t entry : order) ++start[digit(entry) + 1];
    std::partial_sum(std::begin(start), std::end(start), std::begin(start));
    for (const int64_t entry : order) sorted[static_cast<std::size_t>(start[digit(entry)]++)] = entry;
    order.swap(sorted);
  }
}

}  // namespace

Grouping group_by_model(const int64_t* models, int64_t entries, int64_t num_models, int64_t unit_models,
                        int64_t max_entries) {
  const bool ascending = check_models(models, entries, num_models);
  Grouping grouping;
  grouping.order.resize(static_cast<std::size_t>(entries));
  std::iota(grouping.order.begin(), grouping.order.end(), 0);
  if (!ascending) sort_by_model(models, num_models, grouping.order);
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t unit = models[grouping.order[static_cast<std::size_t>(i)]] / unit_models;
    auto& pieces = grouping.pieces;
    if (pieces.empty() || pieces.back().unit != unit || i - pieces.back().begin >= max_entries) {
      pieces.push_back({unit, i, i});
    }
    pieces.back().end = i + 1;
  }
  return grouping;
}

}  // namespace mlpbank
