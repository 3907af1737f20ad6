// The head of a folder, in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "bank/head.h"

namespace mlpbank {

// A word, and entries.
struct Pages {
  static constexpr std::size_t kFirst = 8;  // words before the entries
  std::vector<uint64_t> words =
      std::vector<uint64_t>(kFirst + RecentChanges::kEntries * RecentChanges::kEntryBytes / 8);
  std::shared_ptr<Head> head =
      std::make_shared<Head>(words.data(), RecentChanges(words.data() + kFirst, true), nullptr);
  RecentChanges& recent() { return head->recent(); }
};

}  // namespace mlpbank
