// Keys as the Python package passes them, and tables as it holds them.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "bank/keys.h"
#include "python/arrays.h"

namespace mlpbank {

using BucketArray = py::array_t<uint32_t, py::array::c_style>;
using Offsets = py::array_t<uint64_t, py::array::c_style>;

// A KeyTable and the arrays it lies in.
struct Table {
  std::shared_ptr<const KeyTable> table;
  BucketArray buckets;
  py::object seed;
};
struct StringTable : Table {
  Offsets offsets;
  ByteArray bytes;
};
struct IntTable : Table {
  Integers values;
};

// Reads a str as UTF-8, valid as long as the str is. False for a lone surrogate, which no key has.
inline bool read_text(PyObject* text, KeyView& key) {
  py::ssize_t size;
  const char* bytes = PyUnicode_AsUTF8AndSize(text, &size);
  if (bytes == nullptr) {
    if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError) == 0) throw py::error_already_set();
    PyErr_Clear();
    return false;
  }
  key = KeyView::of(std::string_view(bytes, static_cast<std::size_t>(size)));
  return true;
}

// Reads a key that the package has made a built-in str, or int of 64 bits.
inline KeyView read_key(const py::object& object) {
  KeyView key = KeyView::of(int64_t{0});
  if (!PyUnicode_Check(object.ptr())) {
    key.number = object.cast<int64_t>();
  } else if (!read_text(object.ptr(), key)) {
    throw std::invalid_argument("key: expected a str that UTF-8 can hold");
  }
  return key;
}

constexpr int64_t kNotText = -2;

// Looks up many keys, a list of str or an int64 array. Returns what `find` gives for each, and how
// often that is kNoSlot, or kNotText - i if keys[i] is no str. `run` runs the look-ups, perhaps
// several times.
template <class Run, class Find>
std::pair<Integers, int64_t> find_all(const py::object& keys, Run run, Find find) {
  int64_t unknown = 0;
  if (!PyList_CheckExact(keys.ptr())) {
    const auto numbers = keys.cast<Integers>();
    Integers found(numbers.size());
    const int64_t* from = numbers.data();
    int64_t* to = found.mutable_data();
    run([&] {
      unknown = 0;
      for (py::ssize_t i = 0; i < numbers.size(); ++i) {
        to[i] = find(KeyView::of(from[i]));
        unknown += to[i] < 0;
      }
    });
    return {found, unknown};
  }
  Integers found(static_cast<py::ssize_t>(PyList_GET_SIZE(keys.ptr())));
  int64_t* to = found.mutable_data();
  run([&] {
    unknown = 0;
    // Nothing here runs Python code, so the list stays as it is.
    for (py::ssize_t i = 0; i < found.size(); ++i) {
      PyObject* const key = PyList_GET_ITEM(keys.ptr(), i);
      if (!PyUnicode_Check(key)) {
        unknown = kNotText - i;
        return;
      }
      KeyView view = KeyView::of(int64_t{0});
      to[i] = read_text(key, view) ? find(view) : kNoSlot;
      unknown += to[i] < 0;
    }
  });
  return {found, unknown};
}

}  // namespace mlpbank
