// KeyChunk: keys that are read and looked up at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "bank/key_view.h"

namespace mlpbank {

constexpr KeyView kNoKey = {KeyType::none, {}, 0};  // unknown to every bank

class KeyChunk {
 public:
  static constexpr int64_t kSize = 512;

  KeyView* views() { return views_; }
  void clear() { count_ = 0; }
  int64_t count() const { return count_; }
  void add(const KeyView& key) { views_[count_++] = key; }
  // Adds a key with a copy of its text.
  void add_copy(const KeyView& key) {
    if (count_ == 0) bytes_.clear();
    bytes_ += key.text;
    ends_[count_] = bytes_.size();
    add(key);
  }
  // Memory for texts of the chunk, until the next one.
  char* room(std::size_t size) {
    bytes_.resize(std::max(size, bytes_.size()));
    return bytes_.data();
  }
  // Lets the views of copies point at them. All keys of the chunk are copies.
  void fix() {
    std::size_t begin = 0;
    for (int64_t i = 0; i < count_; ++i) {
      views_[i].text = std::string_view(bytes_).substr(begin, ends_[i] - begin);
      begin = ends_[i];
    }
  }

 private:
  int64_t count_ = 0;
  KeyView views_[kSize];
  std::size_t ends_[kSize];
  std::string bytes_;
};

}  // namespace mlpbank
