// Keys in Arrow columns, and the slots of their models.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "arrow/table.h"
#include "bank/keys.h"

namespace mlpbank {

// One column of text or integers, or several with the parts of keys that are tuples.
class ArrowKeys {
 public:
  // Looks up `count` keys and writes what it finds. Runs on several threads.
  using FindMany = std::function<void(const KeyView* keys, int64_t count, int64_t* found)>;

  // Throws std::invalid_argument for columns of anything else, of different lengths, or too many.
  ArrowKeys(std::vector<ArrowColumn> columns, bool are_tuples);

  KeyType type() const { return type_; }
  int64_t size() const { return columns_[0].length; }
  // Calls visit(key) for each key of rows [begin, end), of type none where it is missing.
  void for_each(int64_t begin, int64_t end, const std::function<void(const KeyView&)>& visit) const;
  // Writes what `find` finds for each key, kNoSlot for missing ones, and returns how many results
  // are negative. Throws std::invalid_argument for columns that are damaged and for integers of
  // more than 64 bits with a sign.
  int64_t find(const FindMany& find, int threads, int64_t* found) const;

 private:
  bool find_by_dictionary(const FindMany& find, int threads, int64_t* found) const;

  std::vector<ArrowColumn> columns_;
  KeyType type_;
};

}  // namespace mlpbank
