// Bank, its guard, and what it tells of its models.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrow/keys.h"
#include "bank/bank.h"
#include "python/arrays.h"
#include "python/gil.h"
#include "python/key_arguments.h"
#include "python/key_columns.h"
#include "python/key_objects.h"
#include "python/register.h"

namespace mlpbank {
namespace {

std::shared_ptr<Bank> make_bank(std::shared_ptr<BatchedWeights> weights, const py::object& table,
                                const Integers& revisions, const Doubles& loaded_at,
                                const Offsets& version_offsets, const ByteArray& version_bytes,
                                uint32_t most_reuses, const std::vector<uint32_t>& reuse_counts) {
  std::shared_ptr<const KeyTable> keys;
  Positions vacant;
  if (!table.is_none()) {
    const auto& given = table.cast<const Table&>();
    keys = given.table;
    vacant = given.vacant;
  }
  const int64_t count = keys == nullptr ? 0 : keys->count();
  expect(revisions.size() == count && loaded_at.size() == count &&
             version_offsets.size() == count + 1 && weights->num_models() >= count &&
             (reuse_counts.empty() || static_cast<int64_t>(reuse_counts.size()) == count),
         "records of wrong size");
  const ModelColumns columns = {
      count,
      revisions.data(),
      loaded_at.data(),
      version_offsets.data(),
      reinterpret_cast<const char*>(version_bytes.data()),
      static_cast<uint64_t>(version_bytes.size()),
      keep(std::array<py::object, 4>{revisions, loaded_at, version_offsets, version_bytes}),
      std::move(vacant),
      reuse_counts};
  return std::make_shared<Bank>(std::move(weights), std::move(keys), columns, most_reuses);
}

// Looks up keys at one moment, lock-free.
template <class FindMany>
std::pair<Integers, int64_t> find_in_bank(const std::shared_ptr<Bank>& bank, const py::object& keys,
                                          FindMany find_many) {
  const Bank::Guard guard(bank);
  return find_all(
      keys, bank->keys().key_type(), [&](auto look_up) { bank->at_one_moment(look_up); },
      find_many);
}

// Looks up slots or handles of keys in Arrow columns, at one moment, on several threads and without
// the GIL.
std::pair<Integers, int64_t> find_arrow(const std::shared_ptr<Bank>& bank, const ArrowKeys& keys,
                                        bool handles, int threads) {
  Integers found(static_cast<py::ssize_t>(keys.size()));
  int64_t* const to = found.mutable_data();
  int64_t unknown = 0;
  {
    const ReleasedGil released;
    const Bank::Guard guard(bank);
    bank->at_one_moment([&] {
      unknown = keys.find(
          [&](const KeyView* views, int64_t count, int64_t* slots) {
            if (handles) return bank->find_handles(views, count, slots);
            bank->find_many(views, count, slots);
          },
          threads, to);
    });
  }
  return {std::move(found), unknown};
}

// The same for text in an array of objects; None where a key has to be looked at by the package.
std::optional<std::pair<Integers, int64_t>> find_text(const std::shared_ptr<Bank>& bank,
                                                      const py::array& keys, bool handles,
                                                      int threads) {
  const ObjectColumn column(keys);
  Found found(column.size());
  int64_t* const to = found.values.mutable_data();
  const Bank::Guard guard(bank);
  bool are_plain = false;
  bank->at_one_moment([&] {
    are_plain = find_objects(
        column, threads,
        [&](const KeyView* views, int64_t count, int64_t* slots) {
          if (handles) return bank->find_handles(views, count, slots);
          bank->find_many(views, count, slots);
        },
        to);
  });
  if (!are_plain) return std::nullopt;
  return found.result();
}

std::pair<Integers, int64_t> find(const std::shared_ptr<Bank>& self, const py::object& keys) {
  return find_in_bank(self, keys, [&](const KeyView* views, int64_t count, int64_t* slots) {
    self->find_many(views, count, slots);
  });
}

std::pair<Integers, int64_t> find_handles(const std::shared_ptr<Bank>& self,
                                          const py::object& keys) {
  return find_in_bank(self, keys, [&](const KeyView* views, int64_t count, int64_t* handles) {
    self->find_handles(views, count, handles);
  });
}

// The slots of handles, and a mask of the handles whose model was removed, None if there are none.
std::pair<Integers, py::object> slots_of(const Bank& self, const Integers& handles) {
  Integers slots(handles.size());
  const int64_t* from = handles.data();
  int64_t* to = slots.mutable_data();
  const int64_t num_slots = self.num_used_slots();
  std::vector<bool> stale;
  for (py::ssize_t i = 0; i < handles.size(); ++i) {
    bool is_stale = false;
    to[i] = self.slot_of(from[i], is_stale);
    if (is_stale) {
      stale.resize(static_cast<std::size_t>(handles.size()));
      stale[static_cast<std::size_t>(i)] = true;
    } else if (to[i] < 0 || to[i] >= num_slots) {
      throw std::out_of_range("handles[" + std::to_string(i) +
                              "]: expected one of Bank.handles, got " + std::to_string(from[i]));
    }
  }
  if (stale.empty()) return {slots, py::none()};
  return {slots, bool_array(stale)};
}

// Changes and what takes the bank's lock give up the GIL.

void add(Bank& self, const py::object& key, const std::string& version, double loaded_at,
         const std::vector<Floats>& weights, const std::vector<std::optional<Floats>>& biases,
         const std::vector<std::optional<Floats>>& slopes) {
  const auto views = layer_views(self.weights()->architecture(), 1, weights, biases, slopes);
  const OneKey one(key);
  const ReleasedGil released;
  self.add(one.view(), version, loaded_at, views);
}

bool remove(Bank& self, const py::object& key) {
  const OneKey one(key);
  const ReleasedGil released;
  return self.remove(one.view());
}

void set_key_type(Bank& self, const py::object& type) {
  const KeyType key_type = key_type_of(type);
  const ReleasedGil released;
  self.set_key_type(key_type);
}

std::optional<ModelRecord> info(const Bank& self, const py::object& key) {
  const OneKey one(key);
  ModelRecord record;
  const ReleasedGil released;
  if (!self.info(one.view(), record)) return std::nullopt;
  return record;
}

Bank::Frozen freeze(const Bank& self, bool with_weights) {
  const ReleasedGil released;
  return self.freeze(with_weights);
}

// Keys as a list of str or tuples or an int64 array, and their slots.
struct KeySlots {
  py::object keys;
  Integers slots;
};

KeySlots key_slots(const std::vector<Bank::Frozen::Key>& keys, KeyType type) {
  const auto count = static_cast<py::ssize_t>(keys.size());
  const bool is_number = type == KeyType::number;
  Integers slots(count), numbers(is_number ? count : 0);
  py::list others(is_number ? 0 : count);
  for (py::ssize_t i = 0; i < count; ++i) {
    const Bank::Frozen::Key& key = keys[static_cast<std::size_t>(i)];
    slots.mutable_data()[i] = key.slot;
    const auto at = static_cast<std::size_t>(i);
    if (is_number) {
      numbers.mutable_data()[i] = key.number;
    } else if (is_tuple(type)) {
      others[at] = tuple_of(type, key.text);
    } else {
      others[at] = py::str(key.text);
    }
  }
  return {is_number ? py::object(numbers) : py::object(others), slots};
}

// A version from a damaged file may not be UTF-8.
py::str decoded(const std::string& version) {
  PyObject* const text =
      PyUnicode_DecodeUTF8(version.data(), static_cast<py::ssize_t>(version.size()), "replace");
  if (text == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(text);
}

}  // namespace

void register_bank(py::module_& m) {
  py::class_<ModelRecord>(m, "ModelRecord")
      .def_property_readonly("version",
                             [](const ModelRecord& self) { return decoded(self.version.str()); })
      .def_readonly("revision", &ModelRecord::revision)
      .def_readonly("loaded_at", &ModelRecord::loaded_at);

  py::class_<KeySlots>(m, "KeySlots")
      .def_readonly("keys", &KeySlots::keys)
      .def_readonly("slots", &KeySlots::slots);

  py::class_<Bank::Guard>(m, "EpochGuard").def("leave", &Bank::Guard::leave);

  py::class_<Bank::Frozen>(m, "FrozenBank")
      .def_property_readonly("key_type",
                             [](const Bank::Frozen& self) { return python_type(self.key_type); })
      .def_property_readonly(
          "added", [](const Bank::Frozen& self) { return key_slots(self.added, self.key_type); })
      .def_property_readonly(
          "moved", [](const Bank::Frozen& self) { return key_slots(self.moved, self.key_type); })
      .def_readonly("records", &Bank::Frozen::records)
      .def_readonly("sequence", &Bank::Frozen::sequence)
      .def_readonly("reuse_counts", &Bank::Frozen::reuse_counts)
      .def_readonly("weights", &Bank::Frozen::weights);

  py::class_<Bank, std::shared_ptr<Bank>>(m, "Bank")
      .def(py::init(&make_bank), py::arg("weights"), py::arg("table"),
           py::arg("revisions").noconvert(), py::arg("loaded_at").noconvert(),
           py::arg("version_offsets").noconvert(), py::arg("version_bytes").noconvert(),
           py::arg("most_reuses"), py::arg("reuse_counts") = std::vector<uint32_t>())
      .def_property_readonly("key_type",
                             [](const Bank& self) { return python_type(self.keys().key_type()); })
      .def_property_readonly("sequence", &Bank::sequence)
      .def_property_readonly("moment", [](const Bank& self) { return self.weights()->moment(); })
      .def_property_readonly("num_used_slots", &Bank::num_used_slots)
      .def("vacant_slots", &Bank::vacant_slots, py::arg("count"), py::call_guard<ReleasedGil>())
      .def("reuse_count", &Bank::reuse_count, py::arg("slot"))
      .def("__len__", [](const Bank& self) { return self.keys().size(); })
      .def(
          "enter",
          [](std::shared_ptr<Bank> self) { return std::make_unique<Bank::Guard>(std::move(self)); })
      .def("find", &find, py::arg("keys"))
      .def("find_text", &find_text, py::arg("keys"), py::arg("handles"), py::arg("num_threads"))
      .def("find_arrow", &find_arrow, py::arg("keys"), py::arg("handles"), py::arg("num_threads"))
      .def("find_handles", &find_handles, py::arg("keys"))
      .def("slots_of", &slots_of, py::arg("handles").noconvert())
      .def("add", &add, py::arg("key"), py::arg("version"), py::arg("loaded_at"),
           py::arg("weights").noconvert(), py::arg("biases").noconvert(),
           py::arg("slopes").noconvert())
      .def("remove", &remove, py::arg("key"))
      .def("set_key_type", &set_key_type, py::arg("type"))
      .def("info", &info, py::arg("key"))
      .def("freeze", &freeze, py::arg("with_weights"));
}

}  // namespace mlpbank
