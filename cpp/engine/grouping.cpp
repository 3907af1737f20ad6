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
// Entries of so few bytes share lines with others, which are read once for each of them unless they
// are sorted in stretches.
constexpr int64_t kShortEntry = 64;

template <class T>
void grow(std::vector<T>& memory, int64_t size) {
  if (const auto wanted = static_cast<std::size_t>(size); memory.size() < wanted) {
    memory.resize(wanted);
  }
}

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

// Copies slots and looks for the first that does not exist, on several threads.
class SlotReader {
 public:
  SlotReader(const int64_t* slots, int64_t num_models)
      : slots_(slots), last_(static_cast<uint64_t>(num_models - 1)) {}

  // Copies some entries. Returns whether they ascend.
  template <class Slot>
  bool read(int64_t begin, int64_t end, Slot* to) {
    const int64_t* const slots = slots_;
    const uint64_t last = last_;
    uint64_t wrong = 0,
             descends = 0;  // sign bits of differences: a compiler makes vectors of these
    auto before = static_cast<uint64_t>(begin < end ? slots[begin] : 0);
    for (int64_t i = begin; i < end; ++i) {
      const auto slot = static_cast<uint64_t>(slots[i]);
      wrong |= slot | (last - slot);
      descends |= slot - before;
      before = slot;
      *to++ = static_cast<Slot>(slot);
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
  std::atomic<int64_t> first_{kNone};
};

// A digit of a slot, or of a key that has one in it. It is passed by value: a compiler then knows
// that no write changes it.
struct Digit {
  uint32_t mask;
  int shift;
  uint32_t operator()(uint64_t key) const { return static_cast<uint32_t>(key >> shift) & mask; }
};

template <class From>
void count_digits(const From* from, Digit digit, int64_t count, uint32_t* counts) {
  for (int64_t i = 0; i < count; ++i) ++counts[digit(from[i])];
}

// Moves what key(i) makes of from[i] to the place of its digit. `ahead`: as many later places are
// prefetched.
template <class From, class Key, class MakeKey>
void move_keys(const From* from, Digit digit, int64_t begin, int64_t end, int64_t ahead,
               uint32_t* place, Key* to, MakeKey key) {
  int64_t i = begin;
  for (; ahead > 0 && i + ahead < end; ++i) {
    prefetch_line_to_write(to + place[digit(from[i + ahead])]);
    to[place[digit(from[i])]++] = key(i);
  }
  for (; i < end; ++i) to[place[digit(from[i])]++] = key(i);
}

// Makes counts of digits the places of their first entries, from `next` on.
void make_places(uint32_t* counts, int64_t digits, int64_t parts, uint32_t next) {
  for (int64_t d = 0; d < digits; ++d) {  // places go by digit, then by part
    for (int64_t p = 0; p < parts; ++p) next += std::exchange(counts[p * digits + d], next);
  }
}

// Adds the groups of positions from `begin` on, where the entries of slot s end at ends[s].
void add_groups(const uint32_t* ends, int64_t begin, const GroupingWish& wish,
                std::vector<Group>& groups) {
  for (int64_t slot = 0, block = 0; slot < wish.num_models; ++block) {
    slot = std::min(slot + wish.block_models, wish.num_models);
    const int64_t end = ends[slot - 1];
    for (int64_t stop; begin < end; begin = stop) {
      stop = std::min(end, begin + wish.max_entries);
      groups.push_back({block, begin, stop});
    }
  }
}

}  // namespace

void Grouping::group(const int64_t* slots, int64_t entries, const GroupingWish& wish) {
  constexpr int64_t kLimit = int64_t{1} << 32;
  if (entries >= kLimit || wish.num_models > kLimit) {
    throw std::overflow_error("models: expected fewer than 2^32");
  }
  ascending_ = check(slots, entries, wish);
  groups_.clear();
  stretch_bits_ = ascending_ ? 0 : stretch_bits(entries, wish);
  if (ascending_) {
    find_groups(entries, wish);
  } else if (in_stretches()) {
    sort_stretches(slots, entries, wish);
  } else {
    sort(slots, entries, wish);
  }
}

// How a call is cut into stretches; 0: it is not.
int Grouping::stretch_bits(int64_t entries, const GroupingWish& wish) {
  if (wish.entry_bytes > kShortEntry) return 0;
  // Each model should have enough rows in a stretch for a whole pass of a kernel, or half of one,
  // and each thread a long stretch to sort.
  const auto fits = [&](int bits, int64_t rows) {
    return wish.num_models * rows <= int64_t{1} << bits;
  };
  if (entries >> kFewBits > 0 && fits(kFewBits, kPassRows)) return kFewBits;
  const bool enough = entries >> kManyBits >= wish.threads;
  return enough && fits(kManyBits, kPassRows / 2) ? kManyBits : 0;
}

// The groups of all positions, whose slots ascend.
void Grouping::find_groups(int64_t entries, const GroupingWish& wish) {
  // block_models is 1 or 16, so that a shift divides.
  const int shift = __builtin_ctzll(static_cast<uint64_t>(wish.block_models));
  int64_t length = 0;  // of the group before, which is the guess for the next
  for (int64_t begin = 0, stop; begin < entries; begin = stop) {
    stop = end_of_block(begin, std::min(entries, begin + wish.max_entries), shift, length);
    groups_.push_back({slot(begin) >> shift, begin, stop});
    length = stop - begin;
  }
}

// Whether slots ascend. Throws for the first that does not exist, unless a look at some finds that
// they do not ascend: sorting checks them, too.
bool Grouping::check(const int64_t* slots, int64_t entries, const GroupingWish& wish) {
  constexpr int64_t kSome = 1024;
  const int64_t some = std::min(entries, kSome);
  if (!std::is_sorted(slots, slots + some)) return false;
  grow(slots_, entries);
  SlotReader reader(slots, wish.num_models);
  std::atomic<bool> ascending{true};
  std::vector<int64_t> begins(static_cast<std::size_t>(parts_of(entries, wish.threads)));
  for_each_part(static_cast<int64_t>(begins.size()), entries, kEntryNanoseconds, wish.threads,
                [&](int64_t part, int64_t begin, int64_t end) {
                  begins[static_cast<std::size_t>(part)] = begin;
                  if (!reader.read(begin, end, slots_.data() + begin)) ascending = false;
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
  grow(slots_, entries);
  grow(keys_, entries);
  if (passes > 1) grow(buffer_, entries);
  counts_.resize(static_cast<std::size_t>(parts * digits));

  SlotReader reader(slots, wish.num_models);
  const auto pass = [&](const auto* from, Digit digit, uint64_t* to, auto key) {
    constexpr bool first = std::is_same_v<decltype(from), const uint32_t*>;
    for_each_part(parts, entries, kEntryNanoseconds, threads,
                  [&](int64_t part, int64_t begin, int64_t end) {
                    uint32_t* const count = counts_.data() + part * digits;
                    std::fill_n(count, digits, 0u);
                    for (int64_t i = begin; i < end; i += kCountedAtOnce) {
                      const int64_t stop = std::min(end, i + kCountedAtOnce);
                      if constexpr (first) reader.read(i, stop, slots_.data() + i);
                      count_digits(from + i, digit, stop - i, count);
                    }
                  });
    reader.raise();
    make_places(counts_.data(), digits, parts, 0);
    for_each_part(parts, entries, kEntryNanoseconds, threads,
                  [&](int64_t part, int64_t begin, int64_t end) {
                    move_keys(from, digit, begin, end, kEntriesAhead,
                              counts_.data() + part * digits, to, key);
                  });
  };
  // The last pass writes to keys_.
  const auto target = [&](int p) { return (passes - p) % 2 == 1 ? keys_.data() : buffer_.data(); };
  const auto mask = static_cast<uint32_t>(digits - 1);
  pass(static_cast<const uint32_t*>(slots_.data()), {mask, 0}, target(0),
       [from = slots_.data()](int64_t i) {
         return static_cast<uint64_t>(from[i]) << 32 | static_cast<uint64_t>(i);
       });
  for (int p = 1; p < passes; ++p) {
    const uint64_t* const from = target(p - 1);
    pass(from, {mask, 32 + p * digit_bits}, target(p), [from](int64_t i) { return from[i]; });
  }
  if (passes > 1) {
    find_groups(entries, wish);
  } else {  // the places of the last part have moved on to the ends
    add_groups(counts_.data() + (parts - 1) * digits, 0, wish, groups_);
  }
}

// Sorts stretch by stretch, in one pass each.
void Grouping::sort_stretches(const int64_t* slots, int64_t entries, const GroupingWish& wish) {
  const int bits = stretch_bits_;
  const int64_t length = stretch(), digits = wish.num_models;
  const int64_t stretches = (entries + length - 1) / length;
  const int64_t parts = parts_of(entries, wish.threads);
  grow(short_keys_, entries);
  grow(few_slots_, parts * length);
  grow(ends_, stretches * digits);
  num_models_ = wish.num_models;
  // Room for all groups, so that the threads need no memory.
  const int64_t most = (stretches / parts + 1) * (wish.num_models + length / wish.max_entries + 1);
  std::vector<std::vector<Group>> groups(static_cast<std::size_t>(parts));
  for (auto& of_part : groups) of_part.reserve(static_cast<std::size_t>(most));

  SlotReader reader(slots, wish.num_models);
  const double nanoseconds = 3 * kEntryNanoseconds * static_cast<double>(length);
  for_each_part(
      parts, stretches, nanoseconds, wish.threads, [&](int64_t part, int64_t first, int64_t last) {
        uint16_t* const few = few_slots_.data() + part * length;
        for (int64_t s = first; s < last; ++s) {
          uint32_t* const count = ends_.data() + s * digits;
          const int64_t begin = s * length, end = std::min(entries, begin + length);
          reader.read(begin, end, few);
          if (reader.found()) continue;  // a slot before that may be wrong, too
          std::fill_n(count, digits, 0u);
          const Digit whole = {0xffff, 0};
          count_digits(few, whole, end - begin, count);
          make_places(count, digits, 1, static_cast<uint32_t>(begin));
          move_keys(few, whole, 0, end - begin, 0, count, short_keys_.data(),
                    [few, bits](int64_t i) {
                      return static_cast<uint32_t>(few[i]) << bits | static_cast<uint32_t>(i);
                    });
          add_groups(count, begin, wish, groups[static_cast<std::size_t>(part)]);
        }
      });
  reader.raise();
  for (const auto& of_part : groups) groups_.insert(groups_.end(), of_part.begin(), of_part.end());
}

}  // namespace mlpbank
