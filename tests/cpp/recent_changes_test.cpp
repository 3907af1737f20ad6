// Entries for recent changes: what was stored is found, as a whole or not at all. Also runs under
// ThreadSanitizer.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "head_pages.h"
#include "network.h"

using namespace mlpbank;

namespace {

bool same(const Bank::Followed& a, const Bank::Followed& b) {
  return a.sequence == b.sequence && a.is_removal == b.is_removal && a.slot == b.slot &&
         a.type == b.type && a.text == b.text && a.number == b.number &&
         a.record.version.str() == b.record.version.str() &&
         a.record.revision == b.record.revision && a.record.loaded_at == b.record.loaded_at &&
         a.reuse_count == b.reuse_count && a.segment == b.segment && a.offset == b.offset &&
         a.checksum == b.checksum;
}

Bank::Followed some_change(uint64_t sequence) {
  Bank::Followed change;
  change.sequence = sequence;
  change.slot = random_below(INT32_MAX);
  change.reuse_count = static_cast<uint32_t>(generator()());
  const int64_t kind = random_below(3);
  change.type = kind == 0   ? KeyType::number
                : kind == 1 ? KeyType::text
                            : static_cast<KeyType>(kTuple);
  if (kind == 0) change.number = static_cast<int64_t>(uint64_t{generator()()} << 32) - 5;
  const auto bytes = static_cast<std::size_t>(random_below(40));
  if (kind > 0) change.text = std::string(bytes, static_cast<char>('a' + sequence % 26));
  change.is_removal = random_below(4) == 0;
  if (!change.is_removal) {
    change.record = {std::string(static_cast<std::size_t>(random_below(16)), 'v'),
                     1 + random_below(1000), static_cast<double>(random_below(1000)) / 7};
  }
  if (!change.is_removal || random_below(2) == 0) {
    change.segment = random_below(1000);
    change.offset = 64 * random_below(INT32_MAX);
    change.checksum = static_cast<int64_t>(generator()());
  }
  return change;
}

TEST(recent_changes_are_as_they_were_stored) {
  Pages pages;
  RecentChanges& recent = pages.recent();
  std::vector<Bank::Followed> stored;
  Bank::Followed found;
  for (uint64_t i = 0; i < 3000; ++i) {
    CHECK(!recent.load(i, found));
    stored.push_back(some_change(i));
    if (i > 0) recent.store(stored.back());
  }
  for (uint64_t i = 0; i < 3000; ++i) {
    CHECK(recent.load(i, found) == (i >= 3000 - RecentChanges::kEntries));
    if (i >= 3000 - RecentChanges::kEntries) {
      CHECK(same(found, stored[i]) && !found.is_checked && found.block == nullptr);
    }
  }
  recent.remove(2999);
  CHECK(!recent.load(2999, found) && recent.load(2998, found));
}

TEST(changes_that_do_not_fit_are_not_told) {
  Pages pages;
  const auto fits = [&](Bank::Followed change) {
    change.sequence = 5;
    pages.recent().store(some_change(5));
    pages.recent().store(change);
    Bank::Followed found;
    const bool is_there = pages.recent().load(5, found);
    CHECK(!is_there || same(found, change));
    return is_there;
  };
  Bank::Followed change;
  change.type = KeyType::text;
  change.segment = change.offset = change.checksum = 0;
  change.text = std::string(56, 'k');
  CHECK(fits(change));
  change.text += "k";
  CHECK(!fits(change));
  change.text = std::string(20, 'k');
  change.record.version = std::string(36, 'v');
  CHECK(fits(change));
  change.record.version = std::string(37, 'v');
  CHECK(!fits(change));
  change.record.version = std::string(1000, 'v');
  CHECK(!fits(change));
  change.record.version = std::string();
  change.segment = int64_t{1} << 32;
  CHECK(!fits(change));
  change.segment = UINT32_MAX;
  CHECK(fits(change));
  change.checksum = -1;
  CHECK(!fits(change));
}

TEST(every_bit_of_a_recent_change_counts) {
  Pages pages;
  for (int times = 0; times < 20; ++times) {
    const Bank::Followed change = some_change(7);
    pages.recent().store(change);
    uint64_t* const entry = pages.words.data() + Pages::kFirst + 7 * RecentChanges::kEntryBytes / 8;
    for (int64_t bit = 0; bit < 8 * RecentChanges::kEntryBytes; ++bit) {
      if (bit / 64 == 8) continue;  // that the block was checked
      entry[bit / 64] ^= uint64_t{1} << bit % 64;
      Bank::Followed found;
      CHECK(!pages.recent().load(7, found));
      entry[bit / 64] ^= uint64_t{1} << bit % 64;
    }
    Bank::Followed found;
    CHECK(pages.recent().load(7, found) && same(found, change));
  }
}

TEST(a_block_was_checked_of_this_change_alone) {
  Pages pages;
  Bank::Followed change = some_change(9), found;
  change.segment = change.checksum = 1;
  change.record.version = std::string();
  pages.recent().store(change);
  CHECK(pages.recent().load(9, found) && !found.is_checked);
  pages.recent().tell_checked(9);
  CHECK(pages.recent().load(9, found) && found.is_checked && same(found, change));
  change.sequence += RecentChanges::kEntries;
  pages.recent().store(change);
  CHECK(pages.recent().load(change.sequence, found) && !found.is_checked);
  pages.recent().tell_checked(9);  // by one who is late
  CHECK(pages.recent().load(change.sequence, found) && !found.is_checked);
  RecentChanges(pages.words.data() + Pages::kFirst, false).tell_checked(change.sequence);
  CHECK(pages.recent().load(change.sequence, found) && !found.is_checked);
  Bank::Followed none;
  CHECK(!RecentChanges(nullptr, false).load(9, none));
}

// Readers find a change as it was stored, or none, while others take its place.
TEST(recent_changes_are_whole_while_others_are_stored) {
  Pages pages;
  std::atomic<bool> stop{false};
  std::atomic<int64_t> wrong{0}, found_some{0};
  const auto told = [](uint64_t sequence) {
    Bank::Followed change;
    change.sequence = sequence;
    change.type = KeyType::text;
    change.text = std::string(40, static_cast<char>('a' + sequence / 1024 % 26));
    change.slot = change.segment = change.offset = change.checksum =
        static_cast<int64_t>(sequence % 100000);
    return change;
  };
  const auto reader = [&] {
    Bank::Followed change;
    while (!stop) {
      const uint64_t sequence = pages.head->sequence();
      if (sequence < 4 || !pages.recent().load(sequence - sequence % 4, change)) continue;
      wrong += !same(change, told(change.sequence));
      ++found_some;
      pages.recent().tell_checked(change.sequence);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back(reader);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  // Four entries, again and again, so that readers meet the writer.
  for (uint64_t i = 1; i < 200000 || found_some < 1000; ++i) {
    const uint64_t sequence = i / 4 * RecentChanges::kEntries + i % 4 + 1;
    pages.recent().store(told(sequence));
    pages.head->publish(sequence);
    if (std::chrono::steady_clock::now() > end) break;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(found_some > 0);
}

}  // namespace

int main(int argc, char** argv) { return run_tests(argc, argv); }
