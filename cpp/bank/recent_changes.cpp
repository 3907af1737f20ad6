// RecentChanges: how an entry is stored, and read while others store.
#include "bank/recent_changes.h"

#include <cstring>
#include <string>
#include <utility>

#include "crc32.h"

namespace mlpbank {
namespace {

// Words of an entry. kSequence is 0 while the others change.
enum Word : std::size_t {
  kSequence,
  kAbout,  // CRC-32 of the entry with zeros here, then what it is, bytes of key and of version
  kSlot,   // and above it the reuse count
  kRevision,
  kLoadedAt,
  kSegment,  // and above it the checksum
  kOffset,
  kNumber,
  kChecked,  // the number of the change once its block was checked; zeros for the CRC-32
  kText      // of the key, then the version
};
constexpr std::size_t kTextBytes = RecentChanges::kEntryBytes - 8 * kText;
// Bits of what it is.
constexpr uint64_t kRemoval = 1, kBlock = 2, kNumberKey = 4, kTupleKey = 8;

constexpr uint64_t kLow = UINT32_MAX;

uint64_t pair(uint64_t low, uint64_t high) { return low | high << 32; }
bool fits(int64_t value) { return value >= 0 && value <= UINT32_MAX; }

template <class To, class From>
To bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace

void RecentChanges::store(const Bank::Followed& change) {
  if (words_ == nullptr) return;
  const std::string version = change.record.version.str();
  const bool has_block = change.segment >= 0;
  if (change.text.size() + version.size() > kTextBytes || !fits(change.slot) ||
      (has_block && !(fits(change.segment) && fits(change.checksum)))) {
    remove(change.sequence);
    return;
  }
  const uint64_t flags = (change.is_removal ? kRemoval : 0) | (has_block ? kBlock : 0) |
                         (change.type == KeyType::number ? kNumberKey : 0) |
                         (is_tuple(change.type) ? kTupleKey : 0);
  Entry entry = {};
  entry[kSequence] = change.sequence;
  entry[kSlot] = pair(static_cast<uint64_t>(change.slot), change.reuse_count);
  entry[kRevision] = static_cast<uint64_t>(change.record.revision);
  entry[kLoadedAt] = bits_of<uint64_t>(change.record.loaded_at);
  if (has_block) {
    entry[kSegment] =
        pair(static_cast<uint64_t>(change.segment), static_cast<uint64_t>(change.checksum));
    entry[kOffset] = static_cast<uint64_t>(change.offset);
  }
  entry[kNumber] = static_cast<uint64_t>(change.number);
  auto* const text = reinterpret_cast<char*>(&entry[kText]);
  change.text.copy(text, kTextBytes);
  version.copy(text + change.text.size(), kTextBytes - change.text.size());
  const uint64_t about = flags | change.text.size() << 8 | version.size() << 16;
  entry[kAbout] = about << 32;
  entry[kAbout] |= crc32(reinterpret_cast<const uint8_t*>(entry.data()), kEntryBytes);

  remove(change.sequence);
  std::atomic<uint64_t>* const words = this->entry(change.sequence);
  for (std::size_t i = kSequence + 1; i < kWords; ++i) {
    words[i].store(entry[i], std::memory_order_relaxed);
  }
  words[kSequence].store(change.sequence, std::memory_order_release);
}

void RecentChanges::remove(uint64_t sequence) {
  if (words_ == nullptr) return;
  entry(sequence)[kSequence].store(0, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);  // before what is stored next
}

bool RecentChanges::load(uint64_t sequence, Bank::Followed& change) const {
  if (words_ == nullptr || sequence == 0) return false;
  const std::atomic<uint64_t>* const words = this->entry(sequence);
  Entry entry;
  entry[kSequence] = words[kSequence].load(std::memory_order_acquire);
  if (entry[kSequence] != sequence) return false;
  for (std::size_t i = kSequence + 1; i < kWords; ++i) {
    entry[i] = words[i].load(std::memory_order_relaxed);
  }
  std::atomic_thread_fence(std::memory_order_acquire);  // after what was loaded
  if (words[kSequence].load(std::memory_order_relaxed) != sequence) return false;
  const bool is_checked = std::exchange(entry[kChecked], 0) == sequence;
  const uint64_t about = entry[kAbout] >> 32, checksum = entry[kAbout] & kLow;
  entry[kAbout] = about << 32;
  if (crc32(reinterpret_cast<const uint8_t*>(entry.data()), kEntryBytes) != checksum) return false;
  const std::size_t text_bytes = about >> 8 & 0xFF, version_bytes = about >> 16 & 0xFF;
  if (text_bytes + version_bytes > kTextBytes) return false;
  const auto* const text = reinterpret_cast<const char*>(&entry[kText]);
  change = {};
  change.sequence = sequence;
  change.is_removal = (about & kRemoval) != 0;
  change.slot = static_cast<int64_t>(entry[kSlot] & kLow);
  change.reuse_count = static_cast<uint32_t>(entry[kSlot] >> 32);
  change.type = (about & kNumberKey) != 0  ? KeyType::number
                : (about & kTupleKey) != 0 ? static_cast<KeyType>(kTuple)
                                           : KeyType::text;
  change.text.assign(text, text_bytes);
  change.number = static_cast<int64_t>(entry[kNumber]);
  if (version_bytes > 0) change.record.version = std::string(text + text_bytes, version_bytes);
  change.record.revision = static_cast<int64_t>(entry[kRevision]);
  change.record.loaded_at = bits_of<double>(entry[kLoadedAt]);
  if ((about & kBlock) != 0) {
    change.segment = static_cast<int64_t>(entry[kSegment] & kLow);
    change.checksum = static_cast<int64_t>(entry[kSegment] >> 32);
    change.offset = static_cast<int64_t>(entry[kOffset]);
    change.is_checked = is_checked;
  }
  return true;
}

void RecentChanges::tell_checked(uint64_t sequence) const {
  // Where another change has come here meanwhile the number is not its own.
  if (is_writable_) entry(sequence)[kChecked].store(sequence, std::memory_order_relaxed);
}

}  // namespace mlpbank
