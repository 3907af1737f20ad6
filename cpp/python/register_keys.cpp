// Key tables over arrays, which may lie in a mapped file.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "bank/keys.h"
#include "bank/slot_map.h"
#include "python/arrays.h"
#include "python/gil.h"
#include "python/key_arguments.h"
#include "python/key_columns.h"
#include "python/register.h"

namespace mlpbank {
namespace {

// A seed is 16 bytes, each half with its lowest byte first. None: keys are hashed as in files of
// format version 1.
KeyHash hash_of(const py::object& seed) {
  if (seed.is_none()) return {};
  const auto bytes = seed.cast<std::string>();
  expect(bytes.size() == 16, "seed of wrong size");
  const auto half = [&](std::size_t at) {
    uint64_t value = 0;
    for (std::size_t i = 8; i-- > 0;)
      value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
    return value;
  };
  return {true, half(0), half(8)};
}

// Positions of a table that have no key: a flag for each position, null where all have one.
using Vacant = std::shared_ptr<const std::vector<bool>>;

Vacant vacant_of(int64_t count, const std::vector<int64_t>& vacant) {
  if (vacant.empty()) return nullptr;
  std::vector<bool> flags(static_cast<std::size_t>(count));
  for (const int64_t i : vacant) {
    expect(i >= 0 && i < count, "vacant: expected positions of keys");
    flags[static_cast<std::size_t>(i)] = true;
  }
  return std::make_shared<const std::vector<bool>>(std::move(flags));
}

StringKeys string_keys(const Offsets& offsets, const ByteArray& bytes, const Vacant& vacant) {
  return {offsets.size() - 1, offsets.data(), reinterpret_cast<const char*>(bytes.data()),
          static_cast<uint64_t>(bytes.size()), vacant};
}

IntKeys int_keys(const Integers& values, const Vacant& vacant) {
  return {values.size(), values.data(), vacant};
}

// New buckets for keys, and the position of a key that equals one before it, or -1.
template <class Keys>
std::pair<BucketArray, int64_t> make_buckets(const Keys& keys, const py::object& seed) {
  BucketArray buckets(num_buckets(keys.count));
  uint32_t* const to = buckets.mutable_data();
  std::fill_n(to, buckets.size(), 0u);
  return {buckets, fill_buckets(keys, hash_of(seed), to)};
}

Buckets checked(const BucketArray& buckets, bool has_tags) {
  const py::ssize_t size = buckets.size();
  expect(size > 0 && (size & (size - 1)) == 0, "buckets of wrong size");
  return {buckets.data(), static_cast<uint64_t>(size), has_tags ? ~uint32_t{0} : 0};
}

StringTable make_table(KeyType type, const Offsets& offsets, const ByteArray& bytes,
                       const BucketArray& buckets, const py::object& seed, bool is_mapped,
                       bool has_tags, const Positions& vacant) {
  expect(offsets.size() > 0, "offsets of wrong size");
  auto table = std::make_shared<const KeyTable>(
      type, string_keys(offsets, bytes, vacant_of(offsets.size() - 1, vacant)),
      checked(buckets, has_tags), hash_of(seed),
      keep(std::array<py::object, 3>{offsets, bytes, buckets}), is_mapped);
  return {{std::move(table), buckets, seed, has_tags, vacant}, offsets, bytes};
}

TupleTable make_tuple_table(const Offsets& offsets, const ByteArray& bytes,
                            const BucketArray& buckets, const py::object& seed,
                            const py::object& type, bool is_mapped, bool has_tags,
                            const Positions& vacant) {
  return {
      make_table(key_type_of(type), offsets, bytes, buckets, seed, is_mapped, has_tags, vacant)};
}

py::list tuples_of(const TupleTable& self) {
  const Vacant vacant = vacant_of(self.offsets.size() - 1, self.vacant);
  const StringKeys keys = string_keys(self.offsets, self.bytes, nullptr);
  py::list tuples(static_cast<std::size_t>(keys.count));
  for (int64_t i = 0; i < keys.count; ++i) {
    if (vacant != nullptr && (*vacant)[static_cast<std::size_t>(i)]) {
      tuples[static_cast<std::size_t>(i)] = py::none();
      continue;
    }
    std::string_view bytes;
    expect(keys.get(i, bytes), "keys: expected offsets that ascend");
    tuples[static_cast<std::size_t>(i)] = tuple_of(self.table->key_type(), bytes);
  }
  return tuples;
}

// The offsets and bytes of tuples of one type.
std::pair<Offsets, ByteArray> encode_tuples(const py::list& tuples, const py::object& type) {
  const HeldObject held(tuples);
  const KeyType key_type = key_type_of(type);
  Offsets offsets(static_cast<py::ssize_t>(tuples.size()) + 1);
  std::string bytes;
  KeyReader reader;
  KeyView view = KeyView::of(int64_t{0});
  offsets.mutable_data()[0] = 0;
  for (std::size_t i = 0; i < tuples.size(); ++i) {
    PyObject* const tuple = PyList_GET_ITEM(tuples.ptr(), static_cast<py::ssize_t>(i));
    expect(reader.read(tuple, key_type, view) == KeyReader::Result::key, "expected tuples");
    bytes += view.text;
    offsets.mutable_data()[i + 1] = bytes.size();
  }
  return {offsets, ByteArray(static_cast<py::ssize_t>(bytes.size()),
                             reinterpret_cast<const uint8_t*>(bytes.data()))};
}

// The type of the keys in a list, where all are of one type or None; None where they are not.
py::object type_of_keys(const py::list& keys) {
  const HeldObject held(keys);
  KeyType type = KeyType::none;
  for (py::ssize_t i = 0; i < PyList_GET_SIZE(keys.ptr()); ++i) {
    PyObject* const key = PyList_GET_ITEM(keys.ptr(), i);
    if (key == Py_None) continue;
    const KeyType own = type_of_key(key);
    if (own == KeyType::none || (type != KeyType::none && own != type)) return py::none();
    type = own;
  }
  return python_type(type);
}

IntTable make_int_table(const Integers& values, const BucketArray& buckets, const py::object& seed,
                        bool is_mapped, bool has_tags, const Positions& vacant) {
  auto table = std::make_shared<const KeyTable>(
      int_keys(values, vacant_of(values.size(), vacant)), checked(buckets, has_tags), hash_of(seed),
      keep(std::array<py::object, 2>{values, buckets}), is_mapped);
  return {{std::move(table), buckets, seed, has_tags, vacant}, values};
}

std::pair<Integers, int64_t> find(const Table& self, const py::object& keys) {
  const SlotMap map(self.table);
  return find_all(
      keys, self.table->key_type(), [](auto look_up) { look_up(); },
      [&](const KeyView* views, int64_t count, int64_t* slots) {
        map.find_many(views, count, slots);
      });
}

// The shard of each key, see shard_of; -1 for None.
Integers shards_of(const py::list& keys, const py::object& type) {
  const auto of_views = [](const KeyView* views, int64_t count, int64_t* shards) {
    for (int64_t i = 0; i < count; ++i) {
      shards[i] = views[i].type == KeyType::none ? -1 : shard_of(views[i]);
    }
  };
  return find_all(keys, key_type_of(type), [](auto look_up) { look_up(); }, of_views).first;
}

}  // namespace

void register_keys(py::module_& m) {
  m.def(
      "string_buckets",
      [](const Offsets& offsets, const ByteArray& bytes, const py::object& seed,
         const Positions& vacant) {
        const Vacant flags = vacant_of(offsets.size() - 1, vacant);
        return make_buckets(string_keys(offsets, bytes, flags), seed);
      },
      py::arg("offsets").noconvert(), py::arg("bytes").noconvert(), py::arg("seed"),
      py::arg("vacant") = Positions());
  m.def(
      "int_buckets",
      [](const Integers& values, const py::object& seed, const Positions& vacant) {
        return make_buckets(int_keys(values, vacant_of(values.size(), vacant)), seed);
      },
      py::arg("values").noconvert(), py::arg("seed"), py::arg("vacant") = Positions());

  m.def("encode_tuples", &encode_tuples, py::arg("tuples"), py::arg("type"));
  m.def("type_of_keys", &type_of_keys, py::arg("keys"));

  m.def("shards_of", &shards_of, py::arg("keys"), py::arg("type"));

  py::class_<Table>(m, "Table")
      .def_readonly("buckets", &Table::buckets)
      .def_readonly("seed", &Table::seed)
      .def_readonly("has_tags", &Table::has_tags)
      .def_readonly("vacant", &Table::vacant)
      .def_property_readonly("is_rebuilt",
                             [](const Table& self) { return self.table->is_rebuilt(); })
      .def_property_readonly("key_type",
                             [](const Table& self) { return python_type(self.table->key_type()); })
      .def("__len__", [](const Table& self) { return self.table->count(); })
      .def("find", &find, py::arg("keys"));
  py::class_<StringTable, Table>(m, "StringTable")
      .def(py::init([](const Offsets& offsets, const ByteArray& bytes, const BucketArray& buckets,
                       const py::object& seed, bool is_mapped, bool has_tags,
                       const Positions& vacant) {
             return make_table(KeyType::text, offsets, bytes, buckets, seed, is_mapped, has_tags,
                               vacant);
           }),
           py::arg("offsets").noconvert(), py::arg("bytes").noconvert(),
           py::arg("buckets").noconvert(), py::arg("seed"), py::arg("is_mapped") = false,
           py::arg("has_tags") = true, py::arg("vacant") = Positions())
      .def_readonly("offsets", &StringTable::offsets)
      .def_readonly("bytes", &StringTable::bytes);
  py::class_<TupleTable, StringTable>(m, "TupleTable")
      .def(py::init(&make_tuple_table), py::arg("offsets").noconvert(),
           py::arg("bytes").noconvert(), py::arg("buckets").noconvert(), py::arg("seed"),
           py::arg("type"), py::arg("is_mapped") = false, py::arg("has_tags") = true,
           py::arg("vacant") = Positions())
      .def("tuples", &tuples_of);
  py::class_<IntTable, Table>(m, "IntTable")
      .def(py::init(&make_int_table), py::arg("values").noconvert(), py::arg("buckets").noconvert(),
           py::arg("seed"), py::arg("is_mapped") = false, py::arg("has_tags") = true,
           py::arg("vacant") = Positions())
      .def_readonly("values", &IntTable::values);
}

}  // namespace mlpbank
