// Key tables over arrays, which may lie in a mapped file.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "bank/keys.h"
#include "python/arrays.h"
#include "python/gil.h"
#include "python/key_arguments.h"
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

StringKeys string_keys(const Offsets& offsets, const ByteArray& bytes) {
  return {offsets.size() - 1, offsets.data(), reinterpret_cast<const char*>(bytes.data()),
          static_cast<uint64_t>(bytes.size())};
}

IntKeys int_keys(const Integers& values) { return {values.size(), values.data()}; }

// New buckets for keys, and the position of a key that equals one before it, or -1.
template <class Keys>
std::pair<BucketArray, int64_t> make_buckets(const Keys& keys, const py::object& seed) {
  BucketArray buckets(num_buckets(keys.count));
  uint32_t* const to = buckets.mutable_data();
  std::fill_n(to, buckets.size(), 0u);
  return {buckets, fill_buckets(keys, hash_of(seed), to)};
}

Buckets checked(const BucketArray& buckets) {
  const py::ssize_t size = buckets.size();
  expect(size > 0 && (size & (size - 1)) == 0, "buckets of wrong size");
  return {buckets.data(), static_cast<uint64_t>(size)};
}

StringTable make_string_table(const Offsets& offsets, const ByteArray& bytes,
                              const BucketArray& buckets, const py::object& seed) {
  expect(offsets.size() > 0, "offsets of wrong size");
  auto table =
      std::make_shared<const KeyTable>(string_keys(offsets, bytes), checked(buckets), hash_of(seed),
                                       keep(std::array<py::object, 3>{offsets, bytes, buckets}));
  return {{std::move(table), buckets, seed}, offsets, bytes};
}

IntTable make_int_table(const Integers& values, const BucketArray& buckets,
                        const py::object& seed) {
  auto table = std::make_shared<const KeyTable>(int_keys(values), checked(buckets), hash_of(seed),
                                                keep(std::array<py::object, 2>{values, buckets}));
  return {{std::move(table), buckets, seed}, values};
}

std::pair<Integers, int64_t> find(const Table& self, const py::object& keys) {
  return find_all(
      keys, [](auto look_up) { look_up(); },
      [&](const KeyView& key) { return self.table->find(key); });
}

}  // namespace

void register_keys(py::module_& m) {
  m.def(
      "string_buckets",
      [](const Offsets& offsets, const ByteArray& bytes, const py::object& seed) {
        return make_buckets(string_keys(offsets, bytes), seed);
      },
      py::arg("offsets").noconvert(), py::arg("bytes").noconvert(), py::arg("seed"));
  m.def(
      "int_buckets",
      [](const Integers& values, const py::object& seed) {
        return make_buckets(int_keys(values), seed);
      },
      py::arg("values").noconvert(), py::arg("seed"));

  py::class_<Table>(m, "Table")
      .def_readonly("buckets", &Table::buckets)
      .def_readonly("seed", &Table::seed)
      .def_property_readonly("is_rebuilt",
                             [](const Table& self) { return self.table->is_rebuilt(); })
      .def("__len__", [](const Table& self) { return self.table->count(); })
      .def("find", &find, py::arg("keys"));
  py::class_<StringTable, Table>(m, "StringTable")
      .def(py::init(&make_string_table), py::arg("offsets").noconvert(),
           py::arg("bytes").noconvert(), py::arg("buckets").noconvert(), py::arg("seed"))
      .def_readonly("offsets", &StringTable::offsets)
      .def_readonly("bytes", &StringTable::bytes);
  py::class_<IntTable, Table>(m, "IntTable")
      .def(py::init(&make_int_table), py::arg("values").noconvert(), py::arg("buckets").noconvert(),
           py::arg("seed"))
      .def_readonly("values", &IntTable::values);
}

}  // namespace mlpbank
