// Sorting a call's entries by the model they go to.
#pragma once

#include <cstdint>
#include <vector>

namespace mlpbank {

// Entries whose models lie in one unit (a model, or a tile of 16), at most `max_entries` of them: positions
// [begin, end) of Grouping::order.
struct Piece {
  int64_t unit, begin, end;
};

struct Grouping {
  std::vector<int64_t> order;  // entry numbers sorted by model; entries of one model keep their order
  std::vector<Piece> pieces;
};

// Linear in `entries`. Throws std::out_of_range naming the first position whose model is not in [0, num_models).
Grouping group_by_model(const int64_t* models, int64_t entries, int64_t num_models, int64_t unit_models,
                        int64_t max_entries);

}  // namespace mlpbank
