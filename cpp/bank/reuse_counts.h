// ReuseCounts: how many models each slot has lost. A handle carries the count of its slot, so that
// handles of removed models are told apart from those of the models that follow.
#pragma once

#include <atomic>
#include <cstdint>

namespace mlpbank {

// Counts lie in segments that never move, each twice as large as the one before. Reading is
// lock-free; one thread modifies at a time.
class ReuseCounts {
 public:
  ReuseCounts() = default;
  ~ReuseCounts() {
    for (auto& segment : segments_) delete[] segment.load();
    for (auto& segment : bits_) delete[] segment.load();
  }
  ReuseCounts(const ReuseCounts&) = delete;
  ReuseCounts& operator=(const ReuseCounts&) = delete;

  uint32_t of(int64_t slot) const {
    const Position at = position_of(slot);
    const auto* bits = bits_[at.segment].load(std::memory_order_acquire);
    if (bits == nullptr || (bits[at.offset / 64].load() >> at.offset % 64 & 1) == 0) return 0;
    return segments_[at.segment].load()[at.offset].load();
  }
  // False: all counts are 0, also those of slots that were seen before the call.
  bool any() const { return any_.load(); }
  // Makes room for a slot. Throws std::bad_alloc.
  void reserve(int64_t slot) {
    const int i = position_of(slot).segment;
    const auto size = static_cast<std::size_t>(kFirstSize << i);
    if (segments_[i].load() == nullptr) segments_[i].store(new Count[size]());
    if (bits_[i].load() == nullptr)
      bits_[i].store(new Bits[size / 64](), std::memory_order_release);
  }
  // Never fail where room was made.
  void set(int64_t slot, uint32_t count) {
    const Position at = position_of(slot);
    if (count != 0) mark(at);
    segments_[at.segment].load()[at.offset].store(count);
  }
  uint32_t increment(int64_t slot) {
    const Position at = position_of(slot);
    mark(at);
    return ++segments_[at.segment].load()[at.offset];
  }

 private:
  using Count = std::atomic<uint32_t>;
  using Bits = std::atomic<uint64_t>;
  struct Position {
    int segment;
    int64_t offset;
  };
  static constexpr int kSegments = 40;
  static constexpr int64_t kFirstSize = 1024;

  // Segment i begins at slot (2^i - 1) * kFirstSize.
  static Position position_of(int64_t slot) {
    const auto firsts = static_cast<uint64_t>(slot / kFirstSize + 1);
    const int segment = 63 - __builtin_clzll(firsts);
    return {segment, slot - ((int64_t{1} << segment) - 1) * kFirstSize};
  }

  // Before a count changes.
  void mark(const Position& at) {
    any_.store(true);
    bits_[at.segment].load()[at.offset / 64].fetch_or(uint64_t{1} << at.offset % 64);
  }

  std::atomic<Count*> segments_[kSegments] = {};
  // Which counts may differ from 0. Few do, and these bits stay in the caches.
  std::atomic<Bits*> bits_[kSegments] = {};
  std::atomic<bool> any_{false};
};

}  // namespace mlpbank
