// Looking up columns of keys: lists, int64 arrays and NumPy's arrays of text.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <utility>

#include "bank/key_memory.h"
#include "bank/keys.h"
#include "python/arrays.h"
#include "python/gil.h"
#include "python/key_arguments.h"
#include "python/key_chunk.h"
#include "python/text_column.h"

namespace mlpbank {

constexpr int64_t kOtherKey = -2;
// So many keys are looked up without the GIL: to hand it over takes less time than they do.
constexpr int64_t kManyKeys = 4096;

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
