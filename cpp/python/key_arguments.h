// Keys as the Python package passes them, and tables as it holds them.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bank/keys.h"
#include "python/arrays.h"

namespace mlpbank {

using BucketArray = py::array_t<uint32_t, py::array::c_style>;
using Offsets = py::array_t<uint64_t, py::array::c_style>;
using Positions = std::vector<int64_t>;

// A KeyTable and the arrays it lies in.
struct Table {
  std::shared_ptr<const KeyTable> table;
  BucketArray buckets;
  py::object seed;
  bool has_tags;     // where there is a seed
  Positions vacant;  // that have no key
};
struct StringTable : Table {
  Offsets offsets;
  ByteArray bytes;
};
struct TupleTable : StringTable {};
struct IntTable : Table {
  Integers values;
};

// str, int or tuple[...] of them; None as long as there never was a key.
inline py::object python_type(KeyType type) {
  const auto of = [](PyTypeObject& object) {
    return py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(&object));
  };
  if (type == KeyType::none) return py::none();
  if (!is_tuple(type)) return of(type == KeyType::text ? PyUnicode_Type : PyLong_Type);
  const int count = num_parts(type);
  py::tuple parts(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    PyTypeObject& part = is_number(type, i, count) ? PyLong_Type : PyUnicode_Type;
    parts[static_cast<std::size_t>(i)] = of(part);
  }
  PyObject* const alias = Py_GenericAlias(reinterpret_cast<PyObject*>(&PyTuple_Type), parts.ptr());
  if (alias == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(alias);
}

inline KeyType key_type_of(const py::object& type) {
  if (type.ptr() == reinterpret_cast<PyObject*>(&PyUnicode_Type)) return KeyType::text;
  if (type.ptr() == reinterpret_cast<PyObject*>(&PyLong_Type)) return KeyType::number;
  const py::tuple parts = type.attr("__args__");
  expect(parts.size() >= 1 && parts.size() <= kMaxParts, "tuple type of wrong size");
  TupleType built;
  for (const py::handle part : parts)
    built.add(part.ptr() == reinterpret_cast<PyObject*>(&PyLong_Type));
  return built.type();
}

inline bool is_int(PyObject* object) { return PyLong_Check(object) && !PyBool_Check(object); }

// The type of one key; none for what is no key.
inline KeyType type_of_key(PyObject* key) {
  if (PyUnicode_Check(key)) return KeyType::text;
  if (is_int(key)) return KeyType::number;
  if (!PyTuple_Check(key)) return KeyType::none;
  const py::ssize_t size = PyTuple_GET_SIZE(key);
  if (size < 1 || size > kMaxParts) return KeyType::none;
  TupleType built;
  for (py::ssize_t i = 0; i < size; ++i) {
    PyObject* const part = PyTuple_GET_ITEM(key, i);
    if (!PyUnicode_Check(part) && !is_int(part)) return KeyType::none;
    built.add(!PyUnicode_Check(part));
  }
  return built.type();
}

// Whether a str has a surrogate, which UTF-8 cannot hold.
inline bool has_surrogate(PyObject* text) {
#if PY_VERSION_HEX < 0x030c0000
  if (PyUnicode_READY(text) != 0) throw py::error_already_set();
#endif
  const auto kind = PyUnicode_KIND(text);
  if (kind == PyUnicode_1BYTE_KIND) return false;
  const void* const points = PyUnicode_DATA(text);
  const auto any = [size = PyUnicode_GET_LENGTH(text)](const auto* point) {
    return std::any_of(point, point + size, [](Py_UCS4 one) { return (one & ~0x7ffu) == 0xd800; });
  };
  return kind == PyUnicode_2BYTE_KIND ? any(static_cast<const Py_UCS2*>(points))
                                      : any(static_cast<const Py_UCS4*>(points));
}

// Reads a str as UTF-8, valid as long as the str is. False for a lone surrogate, which no key has.
// Such a one is not left to Python: to make its exception may run the garbage collector and so any
// code, which could change the list that holds the keys.
inline bool read_text(PyObject* text, std::string_view& view) {
  if (has_surrogate(text)) return false;
  py::ssize_t size;
  const char* bytes = PyUnicode_AsUTF8AndSize(text, &size);
  if (bytes == nullptr) throw py::error_already_set();
  view = std::string_view(bytes, static_cast<std::size_t>(size));
  return true;
}

// Reads keys one after the other. A view is valid as long as its key, and until the next is read.
class KeyReader {
 public:
  enum class Result {
    key,
    absent,  // None, or text that UTF-8 cannot hold: the key of no model
    other,   // of another type
  };

  Result read(PyObject* key, KeyType type, KeyView& view) {
    if (key == Py_None) return Result::absent;
    if (type_of_key(key) != type || type == KeyType::none) return Result::other;
    view = {type, {}, 0};
    if (type == KeyType::text) return read_text(key, view.text) ? Result::key : Result::absent;
    if (type == KeyType::number) return read_number(key, view.number) ? Result::key : Result::other;
    return read_tuple(key, view);
  }

 private:
  Result read_tuple(PyObject* key, KeyView& view) {
    bytes_.clear();
    for (py::ssize_t i = 0; i < PyTuple_GET_SIZE(key); ++i) {
      PyObject* const part = PyTuple_GET_ITEM(key, i);
      std::string_view text;
      int64_t number = 0;
      if (!PyUnicode_Check(part)) {
        if (!read_number(part, number)) return Result::other;
        append(static_cast<uint64_t>(number), 8);
      } else if (!read_text(part, text)) {
        return Result::absent;
      } else {
        if (text.size() >> 32 != 0) throw std::invalid_argument("key: a text of 4 GiB or more");
        append(text.size(), 4);
        bytes_ += text;
      }
    }
    view.text = bytes_;
    return Result::key;
  }
  // False: it needs more than 64 bits.
  static bool read_number(PyObject* object, int64_t& number) {
    int overflow = 0;
    number = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow == 0;
  }
  void append(uint64_t value, int count) {
    for (int i = 0; i < count; ++i) bytes_ += static_cast<char>(value >> 8 * i);
  }

  std::string bytes_;
};

// A key that the package has made one of built-in types.
class OneKey {
 public:
  explicit OneKey(const py::object& object) {
    if (reader_.read(object.ptr(), type_of_key(object.ptr()), view_) != KeyReader::Result::key)
      throw std::invalid_argument("key: expected a str, an int or a tuple of them");
  }
  OneKey(const OneKey&) = delete;
  OneKey& operator=(const OneKey&) = delete;
  const KeyView& view() const { return view_; }

 private:
  KeyReader reader_;
  KeyView view_ = KeyView::of(int64_t{0});
};

// The tuple that has these bytes. Throws std::invalid_argument or UnicodeDecodeError if none has.
inline py::tuple tuple_of(KeyType type, std::string_view bytes) {
  const int count = num_parts(type);
  py::tuple parts(static_cast<std::size_t>(count));
  const auto take = [&](uint64_t size) {
    expect(size <= bytes.size(), "keys: a tuple that ends too early");
    const std::string_view taken = bytes.substr(0, static_cast<std::size_t>(size));
    bytes.remove_prefix(static_cast<std::size_t>(size));
    return taken;
  };
  const auto number = [&](int size) {
    const std::string_view taken = take(static_cast<uint64_t>(size));
    uint64_t value = 0;
    for (std::size_t i = taken.size(); i-- > 0;)
      value = value << 8 | static_cast<unsigned char>(taken[i]);
    return value;
  };
  for (int i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (is_number(type, i, count)) {
      parts[at] = py::int_(static_cast<int64_t>(number(8)));
    } else {
      const std::string_view text = take(number(4));
      PyObject* const decoded =
          PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "strict");
      if (decoded == nullptr) throw py::error_already_set();
      parts[at] = py::reinterpret_steal<py::str>(decoded);
    }
  }
  expect(bytes.empty(), "keys: a tuple that ends too late");
  return parts;
}

}  // namespace mlpbank
