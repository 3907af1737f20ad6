// Keys and banks of the Python module: KeyTable, Bank and what they hand out.
#include "bank/bank.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "python/bindings.h"

namespace {

using SlotArray = py::array_t<uint32_t, py::array::c_style>;
using Offsets = py::array_t<uint64_t, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style>;

constexpr int64_t kNotText = -2;

bool is_power_of_two(py::ssize_t n) { return n > 0 && (n & (n - 1)) == 0; }

// A seed as 16 bytes, each half with its lowest byte first; None: keys are hashed as files of format version 1 have it.
KeyHash hash_of(const py::object& seed) {
  if (seed.is_none()) return {};
  const auto bytes = seed.cast<std::string>();
  expect(bytes.size() == 16, "seed of wrong size");
  const auto half = [&](std::size_t at) {
    uint64_t value = 0;
    for (std::size_t i = 8; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
    return value;
  };
  return {true, half(0), half(8)};
}

StringKeys string_keys(const Offsets& offsets, const ByteArray& bytes) {
  return {offsets.size() - 1, offsets.data(), reinterpret_cast<const char*>(bytes.data()),
          static_cast<uint64_t>(bytes.size())};
}

// A KeyTable and the arrays it lies in.
struct Table {
  std::shared_ptr<const KeyTable> table;
  SlotArray slots;
  py::object seed;
};
struct StringTable : Table {
  Offsets offsets;
  ByteArray bytes;
};
struct IntTable : Table {
  Ids values;
};

template <class Keys>
std::pair<SlotArray, int64_t> make_slots(const Keys& keys, const py::object& seed) {
  SlotArray slots(num_slots(keys.count));
  uint32_t* const to = slots.mutable_data();
  std::fill_n(to, slots.size(), 0u);
  return {slots, fill_slots(keys, hash_of(seed), to)};
}

// A str as UTF-8, valid as long as the str is. False for a lone surrogate, which no key has.
bool view_text(PyObject* text, KeyView& key) {
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

// A key that the Python package has made plain: a str, or an int of 64 bits.
KeyView key_of(const py::object& object) {
  KeyView key = KeyView::of(int64_t{0});
  if (PyUnicode_Check(object.ptr())) {
    if (!view_text(object.ptr(), key)) throw std::invalid_argument("key: expected a str that UTF-8 can hold");
  } else {
    key.number = object.cast<int64_t>();
  }
  return key;
}

// What `find` gives for each of many keys, a list of str or an int64 array; and how many it gives kNoSlot for, or
// kNotText - i if keys[i] is no str. `run` runs the look-ups, perhaps several times.
template <class Run, class Find>
std::pair<Ids, int64_t> find_all(const py::object& keys, Run run, Find find) {
  int64_t unknown = 0;
  if (!PyList_CheckExact(keys.ptr())) {
    const auto numbers = keys.cast<Ids>();
    Ids found(numbers.size());
    const int64_t* from = numbers.data();
    int64_t* to = found.mutable_data();
    run([&] {
      unknown = 0;
      for (py::ssize_t i = 0; i < numbers.size(); ++i) unknown += (to[i] = find(KeyView::of(from[i]))) < 0;
    });
    return {found, unknown};
  }
  Ids found(static_cast<py::ssize_t>(PyList_GET_SIZE(keys.ptr())));
  int64_t* to = found.mutable_data();
  run([&] {
    unknown = 0;
    for (py::ssize_t i = 0; i < found.size(); ++i) {  // nothing here runs Python code, so nobody changes the list
      PyObject* const key = PyList_GET_ITEM(keys.ptr(), i);
      KeyView view = KeyView::of(int64_t{0});
      if (!PyUnicode_Check(key)) {
        unknown = kNotText - i;
        return;
      }
      unknown += (to[i] = view_text(key, view) ? find(view) : kNoSlot) < 0;
    }
  });
  return {found, unknown};
}

// The same of a bank, all of one moment.
template <class Find>
std::pair<Ids, int64_t> find_in_bank(const std::shared_ptr<Bank>& bank, const py::object& keys, Find find) {
  const Bank::Reader reader(bank);
  return find_all(keys, [&](auto look) { bank->at_one_moment(look); }, find);
}

py::object type_of(KeyKind kind) {
  if (kind == KeyKind::none) return py::none();
  return py::reinterpret_borrow<py::object>(
      reinterpret_cast<PyObject*>(kind == KeyKind::text ? &PyUnicode_Type : &PyLong_Type));
}

std::shared_ptr<Bank> make_bank(std::shared_ptr<BatchedWeights> weights, const py::object& table,
                                const Ids& generations, const Doubles& loaded_at, const Offsets& version_offsets,
                                const ByteArray& version_bytes, uint32_t most_reuses) {
  std::shared_ptr<const KeyTable> keys;
  if (!table.is_none()) keys = table.cast<const Table&>().table;
  const int64_t count = keys == nullptr ? 0 : keys->count();
  expect(generations.size() == count && loaded_at.size() == count && version_offsets.size() == count + 1 &&
             weights->num_models() >= count,
         "records of wrong size");
  RecordColumns records = {count,
                           generations.data(),
                           loaded_at.data(),
                           version_offsets.data(),
                           reinterpret_cast<const char*>(version_bytes.data()),
                           static_cast<uint64_t>(version_bytes.size()),
                           keep(std::array<py::object, 4>{generations, loaded_at, version_offsets, version_bytes})};
  return std::make_shared<Bank>(std::move(weights), std::move(keys), std::move(records), most_reuses);
}

// Keys as a list of str or an int64 array, and their slots.
py::tuple keys_and_slots(const std::vector<Bank::Frozen::Key>& keys, KeyKind kind) {
  const auto count = static_cast<py::ssize_t>(keys.size());
  Ids slots(count), numbers(kind == KeyKind::text ? 0 : count);
  py::list texts(kind == KeyKind::text ? count : 0);
  for (py::ssize_t i = 0; i < count; ++i) {
    const Bank::Frozen::Key& key = keys[static_cast<std::size_t>(i)];
    slots.mutable_data()[i] = key.slot;
    if (kind == KeyKind::text) {
      texts[static_cast<std::size_t>(i)] = py::str(key.text);
    } else {
      numbers.mutable_data()[i] = key.number;
    }
  }
  return py::make_tuple(kind == KeyKind::text ? py::object(texts) : py::object(numbers), slots);
}

py::str version_text(const std::string& version) {
  auto text = py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(version.data(), static_cast<py::ssize_t>(version.size()), "replace"));
  if (!text) throw py::error_already_set();
  return text;
}

py::list records_of(const Bank::Frozen& frozen) {
  py::list records;
  for (const auto& [slot, record] : frozen.records) {
    records.append(py::make_tuple(slot, version_text(record.version), record.generation, record.loaded_at));
  }
  return records;
}

}  // namespace

void register_bank(py::module_& m) {
  m.def(
      "string_slots",
      [](const Offsets& offsets, const ByteArray& bytes, const py::object& seed) {
        return make_slots(string_keys(offsets, bytes), seed);
      },
      py::arg("offsets").noconvert(), py::arg("bytes").noconvert(), py::arg("seed"));
  m.def(
      "int_slots",
      [](const Ids& values, const py::object& seed) { return make_slots(IntKeys{values.size(), values.data()}, seed); },
      py::arg("values").noconvert(), py::arg("seed"));

  py::class_<Table>(m, "Table")
      .def_readonly("slots", &Table::slots)
      .def_readonly("seed", &Table::seed)
      .def_property_readonly("is_rebuilt", [](const Table& self) { return self.table->is_rebuilt(); })
      .def("__len__", [](const Table& self) { return self.table->count(); })
      .def(
          "find",
          [](const Table& self, const py::object& keys) {
            return find_all(
                keys, [](auto look) { look(); }, [&](const KeyView& key) { return self.table->find(key); });
          },
          py::arg("keys"));
  py::class_<StringTable, Table>(m, "StringTable")
      .def(py::init([](Offsets offsets, ByteArray bytes, SlotArray slots, py::object seed) {
             expect(offsets.size() > 0 && is_power_of_two(slots.size()), "offsets or slots of wrong size");
             auto table = std::make_shared<const KeyTable>(
                 string_keys(offsets, bytes), Slots{slots.data(), static_cast<uint64_t>(slots.size())}, hash_of(seed),
                 keep(std::array<py::object, 3>{offsets, bytes, slots}));
             return StringTable{{std::move(table), std::move(slots), std::move(seed)}, std::move(offsets),
                                std::move(bytes)};
           }),
           py::arg("offsets").noconvert(), py::arg("bytes").noconvert(), py::arg("slots").noconvert(), py::arg("seed"))
      .def_readonly("offsets", &StringTable::offsets)
      .def_readonly("bytes", &StringTable::bytes);
  py::class_<IntTable, Table>(m, "IntTable")
      .def(py::init([](Ids values, SlotArray slots, py::object seed) {
             expect(is_power_of_two(slots.size()), "slots of wrong size");
             auto table = std::make_shared<const KeyTable>(
                 IntKeys{values.size(), values.data()}, Slots{slots.data(), static_cast<uint64_t>(slots.size())},
                 hash_of(seed), keep(std::array<py::object, 2>{values, slots}));
             return IntTable{{std::move(table), std::move(slots), std::move(seed)}, std::move(values)};
           }),
           py::arg("values").noconvert(), py::arg("slots").noconvert(), py::arg("seed"))
      .def_readonly("values", &IntTable::values);

  py::class_<Bank::Reader>(m, "BankReader").def("leave", &Bank::Reader::leave);

  py::class_<Bank::Frozen>(m, "FrozenBank")
      .def_property_readonly("kind", [](const Bank::Frozen& self) { return type_of(self.kind); })
      .def_property_readonly("added", [](const Bank::Frozen& self) { return keys_and_slots(self.added, self.kind); })
      .def_property_readonly("moved", [](const Bank::Frozen& self) { return keys_and_slots(self.moved, self.kind); })
      .def_property_readonly("records", &records_of)
      .def_readonly("weights", &Bank::Frozen::weights);

  py::class_<Bank, std::shared_ptr<Bank>>(m, "Bank")
      .def(py::init(&make_bank), py::arg("weights"), py::arg("table"), py::arg("generations").noconvert(),
           py::arg("loaded_at").noconvert(), py::arg("version_offsets").noconvert(),
           py::arg("version_bytes").noconvert(), py::arg("most_reuses"))
      .def_property_readonly("kind", [](const Bank& self) { return type_of(self.keys().kind()); })
      .def("__len__", [](const Bank& self) { return self.keys().size(); })
      .def("enter", [](std::shared_ptr<Bank> self) { return std::make_unique<Bank::Reader>(std::move(self)); })
      .def(
          "find",
          [](const std::shared_ptr<Bank>& self, const py::object& keys) {
            return find_in_bank(self, keys, [&](const KeyView& key) { return self->find(key); });
          },
          py::arg("keys"))
      .def(
          "find_ids",
          [](const std::shared_ptr<Bank>& self, const py::object& keys) {
            return find_in_bank(self, keys, [&](const KeyView& key) { return self->find_id(key); });
          },
          py::arg("keys"))
      // Slots of ids, and which of the ids are of removed models; None: none is.
      .def(
          "slots_of",
          [](const Bank& self, const Ids& ids) -> py::tuple {
            Ids slots(ids.size());
            const int64_t* from = ids.data();
            int64_t* to = slots.mutable_data();
            const int64_t slots_there = self.weights()->num_models();
            std::vector<bool> stale;
            for (py::ssize_t i = 0; i < ids.size(); ++i) {
              bool gone = false;
              to[i] = self.slot_of(from[i], gone);
              if (gone) {
                stale.resize(static_cast<std::size_t>(ids.size()));
                stale[static_cast<std::size_t>(i)] = true;
              } else if (to[i] < 0 || to[i] >= slots_there) {
                throw std::out_of_range("ids[" + std::to_string(i) + "]: expected an id of Bank.index, got " +
                                      std::to_string(from[i]));
              }
            }
            if (stale.empty()) return py::make_tuple(slots, py::none());
            py::array_t<bool> mask(ids.size());
            std::copy(stale.begin(), stale.end(), mask.mutable_data());
            return py::make_tuple(slots, mask);
          },
          py::arg("ids").noconvert())
      .def(
          "add",
          [](Bank& self, const py::object& key, const std::string& version, double loaded_at,
             const std::vector<Floats>& weights, const std::vector<std::optional<Floats>>& biases) {
            const auto views = layer_views(self.weights()->architecture(), 1, weights, biases);
            const KeyView view = key_of(key);
            const ReleasedGil released;
            self.add(view, version, loaded_at, views);
          },
          py::arg("key"), py::arg("version"), py::arg("loaded_at"), py::arg("weights").noconvert(),
          py::arg("biases").noconvert())
      .def(
          "remove",
          [](Bank& self, const py::object& key) {
            const KeyView view = key_of(key);
            const ReleasedGil released;
            return self.remove(view);
          },
          py::arg("key"))
      .def(
          "set_kind",
          [](Bank& self, bool text) {
            const ReleasedGil released;
            self.set_kind(text ? KeyKind::text : KeyKind::number);
          },
          py::arg("text"))
      .def(
          "info",
          [](const Bank& self, const py::object& key) -> py::object {
            const KeyView view = key_of(key);
            ModelRecord record;
            bool known;
            {
              const ReleasedGil released;
              known = self.info(view, record);
            }
            if (!known) return py::none();
            return py::make_tuple(version_text(record.version), record.generation, record.loaded_at);
          },
          py::arg("key"))
      .def(
          "freeze",
          [](const Bank& self, bool with_weights) {
            const ReleasedGil released;
            return self.freeze(with_weights);
          },
          py::arg("with_weights"));
}
