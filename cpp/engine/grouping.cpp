// Grouping: a radix sort of entries by slot, and the groups of each block.
//
// A call of many entries is cut into a part for each thread. A pass of the sort counts the digits
// of each part, and then each part moves its entries to places of its own.
#include "engine/grouping.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/threads.h"

namespace mlpbank {
namespace {

// A thread's part: fewer would not pay for the helper.
constexpr int64_t kLeastPart = 16 << 10;
constexpr int64_t kMostParts = 16;
// An estimate, of one pass over the entries.
constexpr double kEntryNanoseconds = 2;
// So many digits' places fit the L2 cache, a line for each. Of few entries, counting more digits
// than there are entries would take longest.
constexpr int kFewestBits = 8, kMostBits = 14;

int bits_of(int64_t n) { return n == 0 ? 0 : 64 - __builtin_clzll(static_cast<uint64_t>(n)); }

// Calls body(part, begin, end) for parts of the entries, on several threads.
template <class Body>
void for_each_part(int64_t parts, int64_t entries, int threads, Body body) {
  const double nanoseconds = kEntryNanoseconds * static_cast<double>(entries);
  parallel_for(threads, {parts, 1, nanoseconds}, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) body(p, entries * p / parts, entries * (p + 1) / parts);
  });
}

int64_t parts_of(int64_t entries, int threads) {
  return std::clamp<int64_t>(entries / kLeastPart, 1, std::min<int64_t>(threads, kMostParts));
}

}  // namespace

void Grouping::group(const int64_t* slots, int64_t entries, int64_t num_models,
                     int64_t block_models, int64_t max_entries, int threads) {
  constexpr int64_t kLimit = int64_t{1} << 32;
  if (entries >= kLimit || num_models > kLimit) {
    throw std::overflow_error("models: expected fewer than 2^32");
  }
  slots_ = slots;
  ascending_ = check(entries, num_models, threads);
  if (!ascending_) sort(entries, num_models, threads);

  groups_.clear();
  // block_models is 1 or 16, so that a shift divides.
  const int shift = __builtin_ctzll(static_cast<uint64_t>(block_models));
  for (int64_t begin = 0; begin < entries;) {
    const int64_t end = end_of_block(begin, std::min(entries, begin + max_entries), shift);
    groups_.push_back({slot(begin) >> shift, begin, end});
    begin = end;
  }
}

// Throws for the first slot that does not exist. Returns whether slots ascend.
bool Grouping::check(int64_t entries, int64_t num_models, int threads) {
  constexpr int64_t kStep = 64;  // compared without a branch in between
  std::atomic<bool> ascending{true};
  std::atomic<int64_t> first_wrong{entries};
  const auto limit = static_cast<uint64_t>(num_models);
  for_each_part(parts_of(entries, threads), entries, threads, [&](int64_t, int64_t begin,
                                                                  int64_t end) {
    bool ascends = true;
    int64_t before = begin == 0 ? 0 : slots_[begin - 1];
    for (int64_t i = begin; i < end; i += kStep) {
      bool exist = true;
      for (int64_t j = i; j < std::min(end, i + kStep); ++j) {
        exist &= static_cast<uint64_t>(slots_[j]) < limit;
        ascends &= before <= slots_[j];
        before = slots_[j];
      }
      if (exist) continue;
      while (static_cast<uint64_t>(slots_[i]) < limit) ++i;
      int64_t first = first_wrong.load();
      while (i < first && !first_wrong.compare_exchange_weak(first, i)) {
      }
      return;
    }
    if (!ascends) ascending = false;
  });
  if (const int64_t i = first_wrong; i < entries) {
    throw std::out_of_range("models[" + std::to_string(i) + "]: expected 0 to " +
                            std::to_string(num_models - 1) + ", got " + std::to_string(slots_[i]));
  }
  return ascending;
}

// The end of the entries from position i on that go to the same block, `end` at most. Looks 1, 2,
// 4, ... further, then halves.
int64_t Grouping::end_of_block(int64_t i, int64_t end, int shift) const {
  const int64_t block = slot(i) >> shift;
  int64_t inside = i, step = 1;
  while (inside + step < end && slot(inside + step) >> shift == block) inside += step, step *= 2;
  int64_t outside = std::min(end, inside + step);
  while (outside - inside > 1) {
    const int64_t middle = inside + (outside - inside) / 2;
    (slot(middle) >> shift == block ? inside : outside) = middle;
  }
  return outside;
}

// Sorts by slot, least significant digit first: stable, with as many passes as the largest slot
// needs. The keys carry their entries along, so every pass reads memory in order.
void Grouping::sort(int64_t entries, int64_t num_models, int threads) {
  const int bits = std::max(1, bits_of(num_models - 1));
  const int most = std::clamp(bits_of(entries), kFewestBits, kMostBits);
  const int passes = (bits + most - 1) / most, digit_bits = (bits + passes - 1) / passes;
  const int64_t digits = int64_t{1} << digit_bits, parts = parts_of(entries, threads);
  const auto size = static_cast<std::size_t>(entries);
  if (keys_.size() < size) keys_.resize(size);
  if (passes > 1 && buffer_.size() < size) buffer_.resize(size);
  counts_.resize(static_cast<std::size_t>(parts * digits));

  // One pass: key_at(i) goes to `to`, by the digit at `shift`.
  const auto pass = [&](auto key_at, int shift, uint64_t* to) {
    const auto digit = [=](uint64_t key) { return key >> shift & uint64_t(digits - 1); };
    for_each_part(parts, entries, threads, [&](int64_t part, int64_t begin, int64_t end) {
      uint32_t* const count = counts_.data() + part * digits;
      std::fill_n(count, digits, 0u);
      for (int64_t i = begin; i < end; ++i) ++count[digit(key_at(i))];
    });
    uint32_t next = 0;  // the first place of each digit, part by part
    for (int64_t d = 0; d < digits; ++d) {
      for (int64_t p = 0; p < parts; ++p) {
        uint32_t& place = counts_[static_cast<std::size_t>(p * digits + d)];
        next += std::exchange(place, next);
      }
    }
    for_each_part(parts, entries, threads, [&](int64_t part, int64_t begin, int64_t end) {
      uint32_t* const place = counts_.data() + part * digits;
      for (int64_t i = begin; i < end; ++i) {
        const uint64_t key = key_at(i);
        to[place[digit(key)]++] = key;
      }
    });
  };
  // The last pass writes to keys_.
  const auto target = [&](int p) { return (passes - p) % 2 == 1 ? keys_.data() : buffer_.data(); };
  const int64_t* const slots = slots_;
  const auto from_slots = [slots](int64_t i) {
    return static_cast<uint64_t>(slots[i]) << 32 | static_cast<uint64_t>(i);
  };
  pass(from_slots, 32, target(0));
  for (int p = 1; p < passes; ++p) {
    const uint64_t* const from = target(p - 1);
    pass([from](int64_t i) { return from[i]; }, 32 + p * digit_bits, target(p));
  }
}

}  // namespace mlpbank
