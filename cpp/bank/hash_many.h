// Hashes of many keys at once, which takes less time for each.
#pragma once

#include <cstdint>

#include "bank/key_view.h"

namespace mlpbank {

// The hash of each key, as if all were of `type`; of no meaning for those that are not.
void hash_many(const KeyHash& hash, KeyType type, const KeyView* keys, int64_t count,
               uint64_t* hashes);

}  // namespace mlpbank
