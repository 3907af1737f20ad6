// Grouping: a radix sort of entries by slot, and the groups of each block.
//
// A call of many entries is cut into parts. A pass of the sort counts the digits of each part, and
// then each part moves its entries to places of its own.
#include "engine/grouping.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "engine/rows.h"
#include "engine/threads.h"
#include "kernels/kernel.h"

namespace mlpbank {
namespace {

// A thread's part: fewer entries would not pay for the helper.
constexpr int64_t kLeastPart = 16 << 10;
constexpr int64_t kMostParts = 16;
// An estimate, of one pass over the entries.
constexpr double kEntryNanoseconds = 2;
// So many digits' places fit the L2 cache, a line for each. Of few entries, counting more digits
// than there are entries would take longest.
constexpr int kFewestBits = 8, kMostBits = 14;
// Slots are checked and counted so many at a time, while they are in L1.
constexpr int64_t kCountedAtOnce = 2048;
// A stretch is sorted by itself, so that its rows and results fit the L2 cache. Short ones share
// lines with others, which otherwise are read once for each of them.
constexpr int64_t kStretchBytes = 2 << 20, kMostStretch = 64 << 10, kShortEntry = 64;

int bits_of(int64_t n) { return n == 0 ? 0 : 64 - __builtin_clzll(static_cast<uint64_t>(n)); }

// Calls body(part, begin, end) for parts of `count` things, on several threads. One takes
// `nanoseconds`.
template <class Body>
void for_each_part(int64_t parts, int64_t count, double nanoseconds, int threads, Body body) {
  const double all = nanoseconds * static_cast<double>(count);
  parallel_for(threads, {parts, 1, all}, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) body(p, count * p / parts, count * (p + 1) / parts);
  });
}

int64_t parts_of(int64_t entries, int threads) {
  return std::clamp<int64_t>(entries / kLeastPart, 1, std::min<int64_t>(threads, kMostParts));
}

// How many entries go into a stretch; 0: the call is not cut.
int64_t stretch_of(int64_t entries, const GroupingWish& wish) {
  if (wish.entry_bytes > kShortEntry) return 0;
  const int64_t stretch =
      std::min(kMostStretch, kStretchBytes / std::max<int64_t>(1, wish.entry_bytes));
  // Each model should have enough rows in it for a whole pass of a kernel.
  return entries > stretch && wish.num_models * kPassRows <= stretch ? stretch : 0;
}

// Copies slots and looks for the first that does not exist, on several threads.
class SlotReader {
 public:
  SlotReader(const int64_t* slots, int64_t num_models, uint32_t* to)
      : slots_(slots), last_(static_cast<uint64_t>(num_models - 1)), to_(to) {}

  // Copies some entries. Returns whether they ascend.
  bool read(int64_t begin, int64_t end) {
    const int64_t* const slots = slots_;
    uint32_t* const to = to_;
    const uint64_t last = last_;
    uint64_t wrong = 0,
             descends = 0;  // sign bits of differences: a compiler makes vectors of these
    auto before = static_cast<uint64_t>(begin < end ? slots[begin] : 0);
    for (int64_t i = begin; i < end; ++i) {
      const auto slot = static_cast<uint64_t>(slots[i]);
      wrong |= slot | (last - slot);
      descends |= slot - before;
      before = slot;
      to[i] = static_cast<uint32_t>(slot);
    }
    if (wrong >> 63 != 0) {
      // It may have become right meanwhile.
      while (begin + 1 < end && static_cast<uint64_t>(slots[begin]) <= last) ++begin;
      int64_t first = first_;
      while (begin < first && !first_.compare_exchange_weak(first, begin)) {
      }
    }
    return descends >> 63 == 0;
  }
  bool found() const { return first_ != kNone; }
  void raise() const {
    const int64_t i = first_;
    if (i == kNone) return;
    throw std::out_of_range("models[" + std::to_string(i) + "]: expected 0 to " +
                            std::to_string(last_) + ", got " + std::to_string(slots_[i]));
  }

 private:
  static constexpr int64_t kNone = INT64_MAX;
  const int64_t* const slots_;
  const uint64_t last_;
  uint32_t* const to_;
  std::atomic<int64_t> first_{kNone};
};

// Keys of entries, by position: made from slots, or made before.
struct SlotKeys {
  const uint32_t* slots;
  uint64_t operator[](int64_t i) const {
    return static_cast<uint64_t>(slots[i]) << 32 | static_cast<uint64_t>(i);
  }
};

// A digit of a key: the lowest of its slot, or any. Like SlotKeys they are passed by value: a
// compiler then knows that no write changes them.
struct LowestDigit {
  uint64_t mask;
  uint64_t operator()(uint64_t key) const { return key >> 32 & mask; }
};
struct AnyDigit {
  uint64_t mask;
  int shift;
  uint64_t operator()(uint64_t key) const { return key >> shift & mask; }
};

template <class Keys, class Digit>
void count_digits(Keys keys, Digit digit, int64_t begin, int64_t end, uint32_t* count) {
  for (int64_t i = begin; i < end; ++i) ++count[digit(keys[i])];
}

template <class Keys, class Digit>
void move_keys(Keys keys, Digit digit, int64_t begin, int64_t end, uint32_t* place, uint64_t* to) {
  int64_t i = begin;
  for (; i + kEntriesAhead < end; ++i) {
    prefetch_line_to_write(to + place[digit(keys[i + kEntriesAhead])]);
    const uint64_t key = keys[i];
    to[place[digit(key)]++] = key;
  }
  for (; i < end; ++i) to[place[digit(keys[i])]++] = keys[i];
}

}  // namespace

void Grouping::group(const int64_t* slots, int64_t entries, const GroupingWish& wish) {
  constexpr int64_t kLimit = int64_t{1} << 32;
  if (entries >= kLimit || wish.num_models > kLimit) {
    throw std::overflow_error("models: expected fewer than 2^32");
  }
  if (const auto size = static_cast<std::size_t>(entries); slots_.size() < size)
    slots_.resize(size);
  ascending_ = check(slots, entries, wish);
  groups_.clear();
  stretch_ = ascending_ ? 0 : stretch_of(entries, wish);
  if (in_stretches()) {
    sort_stretches(slots, entries, wish);
  } else if (!ascending_) {
    sort(slots, entries, wish);
  }

  if (!in_stretches()) add_groups(0, entries, wish, groups_);
}

// The groups of positions [begin, end), whose slots ascend.
void Grouping::add_groups(int64_t begin, int64_t end, const GroupingWish& wish,
                          std::vector<Group>& groups) const {
  // block_models is 1 or 16, so that a shift divides.
  const int shift = __builtin_ctzll(static_cast<uint64_t>(wish.block_models));
  int64_t length = 0;  // of the group before, which is the guess for the next
  for (int64_t stop; begin < end; begin = stop) {
    stop = end_of_block(begin, std::min(end, begin + wish.max_entries), shift, length);
    groups.push_back({slot(begin) >> shift, begin, stop});
    length = stop - begin;
  }
}

// Whether slots ascend. Throws for the first that does not exist, unless a look at some finds that
// they do not ascend: sorting checks them, too.
bool Grouping::check(const int64_t* slots, int64_t entries, const GroupingWish& wish) {
  constexpr int64_t kSome = 1024;
  const int64_t some = std::min(entries, kSome);
  if (!std::is_sorted(slots, slots + some)) return false;
  SlotReader reader(slots, wish.num_models, slots_.data());
  std::atomic<bool> ascending{true};
  std::vector<int64_t> begins(static_cast<std::size_t>(parts_of(entries, wish.threads)));
  for_each_part(static_cast<int64_t>(begins.size()), entries, kEntryNanoseconds, wish.threads,
                [&](int64_t part, int64_t begin, int64_t end) {
                  begins[static_cast<std::size_t>(part)] = begin;
                  if (!reader.read(begin, end)) ascending = false;
                });
  reader.raise();
  for (const int64_t begin : begins) {
    const auto at = static_cast<std::size_t>(begin);
    if (at > 0 && slots_[at - 1] > slots_[at]) ascending = false;
  }
  return ascending;
}

// The end of the entries from position i on that go to the same block, `end` at most. Looks at the
// end and at a guess, then 1, 2, 4, ... from there, then halves.
int64_t Grouping::end_of_block(int64_t i, int64_t end, int shift, int64_t guess) const {
  const int64_t block = slot(i) >> shift;
  const auto is_inside = [&](int64_t j) { return slot(j) >> shift == block; };
  if (is_inside(end - 1)) return end;
  int64_t inside = i, outside = end - 1, step = 1;
  const int64_t guessed = std::min(i + guess, end - 1);
  if (is_inside(guessed)) {
    inside = guessed;
    for (; inside + step < outside && is_inside(inside + step); step *= 2) inside += step;
    outside = std::min(outside, inside + step);
  } else {
    outside = guessed;
    for (; outside - step > inside && !is_inside(outside - step); step *= 2) outside -= step;
    inside = std::max(inside, outside - step);
  }
  while (outside - inside > 1) {
    const int64_t middle = inside + (outside - inside) / 2;
    (is_inside(middle) ? inside : outside) = middle;
  }
  return outside;
}

// Sorts by slot, least significant digit first: stable, with as many passes as the largest slot
// needs. The keys carry their entries along, so every pass reads memory in order.
void Grouping::sort(const int64_t* slots, int64_t entries, const GroupingWish& wish) {
  const int threads = wish.threads, bits = std::max(1, bits_of(wish.num_models - 1));
  const int most = std::clamp(bits_of(entries), kFewestBits, kMostBits);
  const int passes = (bits + most - 1) / most, digit_bits = (bits + passes - 1) / passes;
  const int64_t digits = int64_t{1} << digit_bits, parts = parts_of(entries, threads);
  const auto size = static_cast<std::size_t>(entries);
  if (keys_.size() < size) keys_.resize(size);
  if (passes > 1 && buffer_.size() < size) buffer_.resize(size);
  counts_.resize(static_cast<std::size_t>(parts * digits));

  SlotReader reader(slots, wish.num_models, slots_.data());
  const auto pass = [&](auto keys, auto digit, uint64_t* to) {
    for_each_part(parts, entries, kEntryNanoseconds, threads,
                  [&](int64_t part, int64_t begin, int64_t end) {
                    uint32_t* const count = counts_.data() + part * digits;
                    std::fill_n(count, digits, 0u);
                    for (int64_t i = begin; i < end; i += kCountedAtOnce) {
                      const int64_t stop = std::min(end, i + kCountedAtOnce);
                      if constexpr (std::is_same_v<decltype(keys), SlotKeys>) reader.read(i, stop);
                      count_digits(keys, digit, i, stop, count);
                    }
                  });
    reader.raise();
    uint32_t next = 0;  // places go by digit, then by part
    for (int64_t d = 0; d < digits; ++d) {
      for (int64_t p = 0; p < parts; ++p) {
        uint32_t& place = counts_[static_cast<std::size_t>(p * digits + d)];
        next += std::exchange(place, next);
      }
    }
    for_each_part(parts, entries, kEntryNanoseconds, threads,
                  [&](int64_t part, int64_t begin, int64_t end) {
                    move_keys(keys, digit, begin, end, counts_.data() + part * digits, to);
                  });
  };
  // The last pass writes to keys_.
  const auto target = [&](int p) { return (passes - p) % 2 == 1 ? keys_.data() : buffer_.data(); };
  const auto mask = static_cast<uint64_t>(digits - 1);
  pass(SlotKeys{slots_.data()}, LowestDigit{mask}, target(0));
  for (int p = 1; p < passes; ++p) {
    const uint64_t* const from = target(p - 1);
    pass(from, AnyDigit{mask, 32 + p * digit_bits}, target(p));
  }
}

// Sorts stretch by stretch, in one pass each, and finds its groups while it is in the cache.
void Grouping::sort_stretches(const int64_t* slots, int64_t entries, const GroupingWish& wish) {
  const int bits = std::max(1, bits_of(wish.num_models - 1));
  const int64_t digits = int64_t{1} << bits, stretches = (entries + stretch_ - 1) / stretch_;
  const int64_t parts = parts_of(entries, wish.threads);
  if (const auto size = static_cast<std::size_t>(entries); keys_.size() < size) keys_.resize(size);
  counts_.resize(static_cast<std::size_t>(parts * digits));
  // Room for all groups, so that the threads need no memory.
  const int64_t most =
      (stretches / parts + 1) * (wish.num_models + stretch_ / wish.max_entries + 1);
  std::vector<std::vector<Group>> groups(static_cast<std::size_t>(parts));
  for (auto& of_part : groups) of_part.reserve(static_cast<std::size_t>(most));

  SlotReader reader(slots, wish.num_models, slots_.data());
  const SlotKeys keys = {slots_.data()};
  const LowestDigit digit = {static_cast<uint64_t>(digits - 1)};
  const double nanoseconds = 3 * kEntryNanoseconds * static_cast<double>(stretch_);
  for_each_part(parts, stretches, nanoseconds, wish.threads,
                [&](int64_t part, int64_t first, int64_t last) {
                  uint32_t* const count = counts_.data() + part * digits;
                  for (int64_t s = first; s < last; ++s) {
                    const int64_t begin = s * stretch_, end = std::min(entries, begin + stretch_);
                    reader.read(begin, end);
                    if (reader.found()) continue;  // a slot before that may be wrong, too
                    std::fill_n(count, digits, 0u);
                    count_digits(keys, digit, begin, end, count);
                    auto next = static_cast<uint32_t>(begin);
                    for (int64_t d = 0; d < digits; ++d) next += std::exchange(count[d], next);
                    move_keys(keys, digit, begin, end, count, keys_.data());
                    add_groups(begin, end, wish, groups[static_cast<std::size_t>(part)]);
                  }
                });
  reader.raise();
  for (const auto& of_part : groups) groups_.insert(groups_.end(), of_part.begin(), of_part.end());
}

}  // namespace mlpbank
