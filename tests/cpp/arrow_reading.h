// What tests read of Arrow arrays.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrow/keys.h"
#include "arrow/numbers.h"
#include "arrow/table.h"
#include "arrow_producer.h"

namespace mlpbank {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

inline std::shared_ptr<const ArrowTable> table_of(ArrowSchema schema,
                                                  std::vector<ArrowArray> arrays) {
  auto held = std::make_shared<ArrowTable::Schema>(schema);
  std::vector<ArrowOwned<ArrowArray>> batches;
  for (ArrowArray& array : arrays) batches.emplace_back(array);
  return ArrowTable::of(std::move(held), std::move(batches));
}

inline ArrowColumn column(const std::string& format, std::vector<ArrowArray> arrays) {
  return column_of(table_of(make_schema(format), std::move(arrays)), 0);
}

inline std::vector<float> values_of(const ArrowColumn& from) {
  std::vector<float> values(static_cast<std::size_t>(from.length));
  columns_to_rows<float>({NumberColumn::of(from)}, from.length, nullptr, nullptr, 1, values.data());
  return values;
}

inline bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

// Keys as one text each; "-" where one is missing.
inline std::vector<std::string> keys_of(const ArrowKeys& keys) {
  std::vector<std::string> found;
  keys.for_each(0, keys.size(), [&](const KeyView& key) {
    found.push_back(key.type == KeyType::none     ? "-"
                    : key.type == KeyType::number ? std::to_string(key.number)
                                                  : std::string(key.text));
  });
  return found;
}

// Slots by the texts above.
inline std::vector<int64_t> slots_of(const ArrowKeys& keys,
                                     const std::map<std::string, int64_t>& slots) {
  std::vector<int64_t> found(static_cast<std::size_t>(keys.size()));
  const int64_t unknown = keys.find(
      [&](const KeyView* views, int64_t count, int64_t* to) {
        for (int64_t i = 0; i < count; ++i) {
          const auto known =
              slots.find(views[i].type == KeyType::number ? std::to_string(views[i].number)
                                                          : std::string(views[i].text));
          to[i] = known == slots.end() ? kNoSlot : known->second;
        }
      },
      2, found.data());
  CHECK(unknown == std::count(found.begin(), found.end(), kNoSlot));
  return found;
}

}  // namespace mlpbank
