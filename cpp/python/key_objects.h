// Looking up text in NumPy arrays of objects, as pandas has it, on several threads.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string_view>

#include "bank/keys.h"
#include "engine/threads.h"
#include "python/arrays.h"
#include "python/key_columns.h"

namespace mlpbank {

// Objects of one dimension.
class ObjectColumn {
 public:
  explicit ObjectColumn(const py::array& array)
      : data_(static_cast<const char*>(array.data())),
        size_(array.size()),
        stride_(array.ndim() == 1 ? array.strides(0) : 0) {
    expect(array.ndim() == 1 && array.dtype().kind() == 'O', "keys: expected objects");
  }
  int64_t size() const { return size_; }
  // Null: NumPy's way to say None.
  PyObject* at(int64_t i) const {
    PyObject* object;
    std::memcpy(&object, data_ + i * stride_, sizeof object);
    return object;
  }

 private:
  const char* data_;
  int64_t size_;
  int64_t stride_;
};

// Reads a key where that takes nothing but looking at memory: a str of ASCII, None or NaN. False
// for any other object.
inline bool read_plain(PyObject* object, KeyView& view) {
  view = kNoKey;
  if (object == nullptr || object == Py_None) return true;
  if (PyUnicode_CheckExact(object)) {
    if (!PyUnicode_IS_COMPACT_ASCII(object)) return false;
    const auto* const text = reinterpret_cast<const PyASCIIObject*>(object);
    view = KeyView::of(std::string_view(reinterpret_cast<const char*>(text + 1),
                                        static_cast<std::size_t>(text->length)));
    return true;
  }
  return PyFloat_CheckExact(object) && std::isnan(PyFloat_AS_DOUBLE(object));
}

// Writes what `find_many` finds for each key; false where one is not plain. The caller keeps the
// GIL, so that nobody changes or drops an object, while helpers that need none read with it.
template <class FindMany>
bool find_objects(const ObjectColumn& keys, int threads, FindMany find_many, int64_t* found) {
#ifdef Py_GIL_DISABLED
  return false;  // others may change the array meanwhile
#endif
  constexpr double kNanosecondsPerKey = 60;
  constexpr int64_t kAhead = 16;
  const int64_t count = keys.size(), chunks = (count + KeyChunk::kSize - 1) / KeyChunk::kSize;
  std::atomic<bool> are_plain{true};
  parallel_for(threads, {chunks, 1, kNanosecondsPerKey * static_cast<double>(count)},
               [&](int64_t first, int64_t last) {
                 KeyChunk chunk;
                 const int64_t end = std::min(last * KeyChunk::kSize, count);
                 for (int64_t begin = first * KeyChunk::kSize; begin < end;
                      begin += KeyChunk::kSize) {
                   if (!are_plain.load(std::memory_order_relaxed)) return;
                   chunk.clear();
                   for (int64_t i = begin; i < std::min(begin + KeyChunk::kSize, end); ++i) {
                     if (i + kAhead < end) prefetch_object(keys.at(i + kAhead));
                     KeyView view;
                     if (!read_plain(keys.at(i), view)) are_plain = false;
                     chunk.add(view);
                   }
                   find_many(chunk.views(), chunk.count(), found + begin);
                 }
               });
  return are_plain;
}

}  // namespace mlpbank
