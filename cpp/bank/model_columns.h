// What a bank knows of its models beside their weights: versions, revisions, times of loading.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace mlpbank {

// A text that is empty for most models, and then takes no more than a pointer: a bank may have a
// million records.
class RareText {
 public:
  RareText() = default;
  RareText(const std::string& text)
      : text_(text.empty() ? nullptr : std::make_unique<const std::string>(text)) {}
  RareText(const RareText& other) : RareText(other.str()) {}
  RareText(RareText&& other) noexcept = default;
  RareText& operator=(RareText other) noexcept {
    text_ = std::move(other.text_);
    return *this;
  }
  std::string str() const { return text_ == nullptr ? std::string() : *text_; }

 private:
  std::unique_ptr<const std::string> text_;
};

struct ModelRecord {
  RareText version;      // UTF-8; empty: none
  int64_t revision = 0;  // loads under its key
  double loaded_at = 0;  // seconds since 1970
};

// The records that a bank begins with, by slot, in memory that `owner` keeps alive. It may be a
// mapped file, so values are not trusted.
struct ModelColumns {
  int64_t count = 0;
  const int64_t* revisions = nullptr;
  const double* loaded_at = nullptr;
  const uint64_t* version_offsets = nullptr;  // count + 1
  const char* version_bytes = nullptr;
  uint64_t num_version_bytes = 0;
  std::shared_ptr<const void> owner;
  // Of files that keep slots without a model: these slots, and how many models each slot has lost
  // (empty, or `count` numbers).
  std::vector<int64_t> vacant = {};
  std::vector<uint32_t> reuse_counts = {};

  // An empty record for slots that are not in the columns.
  ModelRecord get(int64_t slot) const {
    ModelRecord record;
    if (slot >= count) return record;
    record.revision = revisions[slot];
    record.loaded_at = loaded_at[slot];
    const uint64_t begin = version_offsets[slot], end = version_offsets[slot + 1];
    if (begin <= end && end <= num_version_bytes) {
      record.version = std::string(version_bytes + begin, end - begin);
    }
    return record;
  }
};

}  // namespace mlpbank
