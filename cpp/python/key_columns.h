// Looking up columns of keys: lists, int64 arrays and NumPy's arrays of text.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bank/key_memory.h"
#include "bank/keys.h"
#include "python/arrays.h"
#include "python/gil.h"
#include "python/key_arguments.h"

namespace mlpbank {

constexpr int64_t kOtherKey = -2;
// So many keys are looked up without the GIL: to hand it over takes less time than they do.
constexpr int64_t kManyKeys = 4096;

constexpr KeyView kNoKey = {KeyType::none, {}, 0};  // unknown to every bank

// Keys that are read and looked up at a time.
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

// A NumPy array of text (dtype U): `width` code points each, filled up with zeros.
class TextColumn {
 public:
  explicit TextColumn(const py::array& array)
      : data_(static_cast<const char*>(array.data())),
        size_(array.size()),
        stride_(array.ndim() == 1 ? array.strides(0) : 0),
        width_(array.itemsize() / 4) {
    expect(array.ndim() == 1 && array.dtype().kind() == 'U' && array.dtype().byteorder() != '>',
           "keys: expected one dimension of text");
  }
  int64_t size() const { return size_; }

  // Reads keys as UTF-8. Surrogates are in no key.
  void read(int64_t begin, int64_t count, KeyChunk& chunk) const {
    chunk.clear();
    // UTF-8 takes no more bytes than code points of 32 bits.
    char* to = chunk.room(static_cast<std::size_t>(4 * width_ * count));
    for (int64_t i = begin; i < begin + count; ++i) {
      const char* const text = to;
      const bool is_text = encode(data_ + i * stride_, to);
      const auto size = static_cast<std::size_t>(to - text);
      chunk.add(is_text ? KeyView::of(std::string_view(text, size)) : kNoKey);
    }
  }

 private:
  static uint32_t load(const char* from, int64_t i) {
    uint32_t point;
    std::memcpy(&point, from + 4 * i, 4);
    return point;
  }
  // Writes one text and moves `to` to its end. False: it has what is no character.
  bool encode(const char* from, char*& to) const {
    uint32_t all = 0;
    for (int64_t i = 0; i < width_; ++i) {
      const uint32_t point = load(from, i);
      all |= point;
      to[i] = static_cast<char>(point);
    }
    int64_t size = width_;
    while (size > 0 && load(from, size - 1) == 0) --size;
    if (all < 0x80) {
      to += size;
      return true;
    }
    bool is_text = true;
    for (int64_t i = 0; i < size; ++i) is_text = append(load(from, i), to) && is_text;
    return is_text;
  }
  static bool append(uint32_t point, char*& to) {
    const auto put = [&](uint32_t byte) { *to++ = static_cast<char>(byte); };
    const auto last = [&](int shift) { put(0x80 | (point >> shift & 0x3f)); };
    if (point < 0x80) {
      put(point);
    } else if (point < 0x800) {
      put(0xc0 | point >> 6);
      last(0);
    } else if (point < 0x10000) {
      put(0xe0 | point >> 12);
      last(6);
      last(0);
    } else {
      put(0xf0 | (point >> 18 & 0x7));
      last(12);
      last(6);
      last(0);
    }
    return point < 0x110000 && (point < 0xd800 || point >= 0xe000);
  }

  const char* data_;
  int64_t size_;
  int64_t stride_;
  int64_t width_;
};

// Slots or handles of a column of keys, and how many are unknown.
struct Found {
  explicit Found(int64_t count) : values(count) {}
  std::pair<Integers, int64_t> result() {
    const int64_t* const from = values.data();
    const auto unknown = std::count_if(from, from + values.size(), [](int64_t v) { return v < 0; });
    return {values, unknown};
  }
  Integers values;
};

// Looks up keys that need no Python: `read` makes a chunk of views, from a position on.
template <class Read, class Run, class FindMany>
std::pair<Integers, int64_t> find_plain(int64_t count, Read read, Run run, FindMany find_many) {
  Found found(count);
  int64_t* const to = found.values.mutable_data();
  const auto look_up = [&] {
    run([&] {
      KeyChunk chunk;
      for (int64_t begin = 0; begin < count; begin += KeyChunk::kSize) {
        read(begin, std::min(KeyChunk::kSize, count - begin), chunk);
        find_many(chunk.views(), chunk.count(), to + begin);
      }
    });
  };
  if (count < kManyKeys) {
    look_up();
  } else {
    const ReleasedGil released;
    look_up();
  }
  return found.result();
}

// Asks for an object with its text: that of a short str lies behind its first 48 bytes at most.
inline void prefetch_object(PyObject* object) {
  prefetch_line(object);
  prefetch_line_at(reinterpret_cast<const char*>(object), 48);
}

// Looks up keys of a list, with the GIL: to hold all of its objects, so that nobody can drop them,
// takes as long as reading them. Nothing here runs Python code, so the list stays as it is.
template <class Run, class FindMany>
std::pair<Integers, int64_t> find_listed(PyObject* list, KeyType type, Run run,
                                         FindMany find_many) {
  const HeldObject held(list);
  const auto count = static_cast<int64_t>(PyList_GET_SIZE(list));
  Found found(count);
  int64_t* const to = found.values.mutable_data();
  int64_t other = -1;
  constexpr int64_t kAhead = 16;
  KeyReader reader;
  KeyChunk chunk;
  run([&] {
    for (int64_t begin = 0; begin < count; begin += KeyChunk::kSize) {
      chunk.clear();
      for (int64_t i = begin; i < std::min(begin + KeyChunk::kSize, count); ++i) {
        if (i + kAhead < count) prefetch_object(PyList_GET_ITEM(list, i + kAhead));
        KeyView view = kNoKey;
        const auto result = reader.read(PyList_GET_ITEM(list, i), type, view);
        if (result == KeyReader::Result::other) {
          other = i;
          return;
        }
        if (result == KeyReader::Result::absent) {
          chunk.add_copy(kNoKey);
        } else if (is_tuple(type)) {
          chunk.add_copy(view);
        } else {
          chunk.add(view);
        }
      }
      if (is_tuple(type)) chunk.fix();
      find_many(chunk.views(), chunk.count(), to + begin);
    }
  });
  if (other >= 0) return {found.values, kOtherKey - other};
  return found.result();
}

// Looks up keys: an int64 array, a NumPy array of text, or a list whose keys are of `type` or None.
// Returns what `find_many` gives for each, and how often that is kNoSlot, or kOtherKey - i if
// keys[i] is of another type. `run` runs the look-ups, perhaps several times.
template <class Run, class FindMany>
std::pair<Integers, int64_t> find_all(const py::object& keys, KeyType type, Run run,
                                      FindMany find_many) {
  if (PyList_CheckExact(keys.ptr())) {
    return find_listed(keys.ptr(), type, run, find_many);
  }
  const auto array = keys.cast<py::array>();
  if (array.dtype().kind() == 'U') {
    const TextColumn texts(array);
    const auto read = [&](int64_t begin, int64_t count, KeyChunk& chunk) {
      texts.read(begin, count, chunk);
    };
    return find_plain(texts.size(), read, run, find_many);
  }
  const auto numbers = keys.cast<Integers>();
  const int64_t* const from = numbers.data();
  const auto read = [&](int64_t begin, int64_t count, KeyChunk& chunk) {
    chunk.clear();
    for (int64_t i = begin; i < begin + count; ++i) chunk.add(KeyView::of(from[i]));
  };
  return find_plain(numbers.size(), read, run, find_many);
}

}  // namespace mlpbank
