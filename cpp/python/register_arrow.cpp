// Tables of others through the Arrow PyCapsule interface
// (https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html), rows and keys in
// them, and results as such columns.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arrow/export.h"
#include "arrow/keys.h"
#include "arrow/numbers.h"
#include "arrow/order.h"
#include "arrow/table.h"
#include "python/arrays.h"
#include "python/gil.h"
#include "python/key_arguments.h"
#include "python/register.h"

namespace mlpbank {
namespace {

constexpr const char* kSchema = "arrow_schema";
constexpr const char* kArray = "arrow_array";
constexpr const char* kStream = "arrow_array_stream";

template <class Struct>
Struct& in_capsule(const py::object& capsule, const char* name) {
  void* const pointer = PyCapsule_IsValid(capsule.ptr(), name) != 0
                            ? PyCapsule_GetPointer(capsule.ptr(), name)
                            : nullptr;
  if (pointer == nullptr)
    throw std::invalid_argument(std::string("expected a capsule named ") + name);
  return *static_cast<Struct*>(pointer);
}

// A capsule that releases the struct in it, unless a consumer has moved that.
template <class Struct, class Fill>
py::object new_capsule(const char* name, Fill fill) {
  auto held = std::make_unique<Struct>();
  fill(*held);
  PyObject* const capsule = PyCapsule_New(held.get(), name, [](PyObject* object) {
    auto* const data =
        static_cast<Struct*>(PyCapsule_GetPointer(object, PyCapsule_GetName(object)));
    if (data->release != nullptr) data->release(data);
    delete data;
  });
  if (capsule == nullptr) {
    held->release(held.get());
    throw py::error_already_set();
  }
  held.release();
  return py::reinterpret_steal<py::object>(capsule);
}

// Producers that need the GIL take it.

std::unique_ptr<ArrowStream> open_stream(const py::object& capsule) {
  // Moved while the capsule is held: a producer may give one to several threads.
  const auto moved = [&] {
    const HeldObject held(capsule);
    return ArrowOwned<ArrowArrayStream>(in_capsule<ArrowArrayStream>(capsule, kStream));
  };
  ArrowOwned<ArrowArrayStream> stream = moved();
  const ReleasedGil released;
  return std::make_unique<ArrowStream>(*stream.get());
}

std::shared_ptr<ArrowTable> mutable_of(std::shared_ptr<const ArrowTable> table) {
  return std::const_pointer_cast<ArrowTable>(std::move(table));  // what pybind11 holds
}

std::shared_ptr<ArrowTable> next_batch(ArrowStream& stream) {
  const ReleasedGil released;
  return mutable_of(stream.next());
}

// Between batches a handler of signals may raise, as that of Ctrl-C does.
std::shared_ptr<ArrowTable> rest_of(ArrowStream& stream) {
  std::optional<ReleasedGil> released(std::in_place);
  return mutable_of(stream.rest([&released] {
    released.reset();
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    released.emplace();
  }));
}

std::shared_ptr<ArrowTable> table_of_array(const py::object& schema, const py::object& array) {
  const HeldObject held(schema, array);
  auto own = std::make_shared<ArrowTable::Schema>(in_capsule<ArrowSchema>(schema, kSchema));
  std::vector<ArrowOwned<ArrowArray>> batches;
  batches.emplace_back(in_capsule<ArrowArray>(array, kArray));
  return mutable_of(ArrowTable::of(std::move(own), std::move(batches)));
}

// Text that is not UTF-8 is shown as far as it is. Strict: UnicodeDecodeError instead.
py::str decoded(std::string_view text, bool strict = false) {
  PyObject* const object = PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()),
                                                strict ? nullptr : "replace");
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(object);
}

py::list names_of(const ArrowTable& table) {
  py::list names;
  for (const std::string& name : table.names()) names.append(decoded(name));
  return names;
}

ArrowColumn column_at(std::shared_ptr<ArrowTable> table, std::size_t i) {
  expect(i < (table->has_columns() ? table->names().size() : 1), "no such column");
  return column_of(std::move(table), i);
}

// A NumPy array of real numbers in native byte order as a column. It keeps nothing alive.
NumberColumn column_of_array(const py::array& array) {
  using Kind = ArrowType::Kind;
  const char kind = array.dtype().kind(), order = array.dtype().byteorder();
  const py::ssize_t size = array.dtype().itemsize();
  expect(array.ndim() == 1 && (order == '=' || order == '|'), "expected one dimension, native");
  NumberColumn column;
  column.stride = array.strides(0);
  column.length = array.size();
  const bool fits = kind == 'f'                  ? size == 2 || size == 4 || size == 8
                    : kind == 'b'                ? size == 1
                    : kind == 'i' || kind == 'u' ? size == 1 || size == 2 || size == 4 || size == 8
                                                 : false;
  expect(fits, "expected real numbers of up to 64 bits");
  const auto pick = [size](Kind one, Kind two, Kind four, Kind eight) {
    return size == 1 ? one : size == 2 ? two : size == 4 ? four : eight;
  };
  if (kind == 'f') {
    column.kind = pick(Kind::other, Kind::float16, Kind::float32, Kind::float64);
  } else if (kind == 'i') {
    column.kind = pick(Kind::int8, Kind::int16, Kind::int32, Kind::int64);
  } else {
    column.kind = pick(Kind::uint8, Kind::uint16, Kind::uint32, Kind::uint64);
  }
  if (column.length > 0)
    column.chunks.push_back({0, column.length, static_cast<const char*>(array.data()), nullptr, 0});
  return column;
}

std::vector<NumberColumn> number_columns(const py::list& columns, int64_t rows) {
  std::vector<NumberColumn> numbers;
  for (const py::handle column : columns) {
    if (py::isinstance<ArrowColumn>(column)) {
      const auto& arrow = column.cast<const ArrowColumn&>();
      expect(arrow.type.is_numeric(), "expected numbers");
      numbers.push_back(NumberColumn::of(arrow));
    } else {
      numbers.push_back(column_of_array(column.cast<py::array>()));
    }
    expect(numbers.back().length == rows, "columns of different lengths");
  }
  // Columns of nulls may have any length: they need no memory, rows do.
  constexpr auto kMost = std::numeric_limits<int64_t>::max() / int64_t{sizeof(double)};
  if (!numbers.empty() && rows >= kMost / static_cast<int64_t>(numbers.size()))
    throw std::bad_alloc();
  return numbers;
}

// Rows of columns, each an array or an ArrowColumn, in the order of the table or another one.
// float32 columns of a matrix are not copied where they have their order.
Floats rows_of_columns(const py::list& columns, int64_t rows, const std::optional<Doubles>& shift,
                       const RowOrder* order, int threads) {
  const auto numbers = number_columns(columns, rows);
  const auto count = static_cast<py::ssize_t>(numbers.size());
  const std::vector<py::ssize_t> shape = {static_cast<py::ssize_t>(rows), count};
  expect(!shift || shift->size() == count, "shift of wrong size");
  expect(order == nullptr || order->num_rows() == rows, "order of wrong size");
  if (!shift && order == nullptr && rows > 0 && are_rows(numbers)) {
    const auto* const first = reinterpret_cast<const float*>(numbers[0].chunks[0].values);
    return Floats(shape, first, columns);
  }
  // Rows that begin with cache lines can be written past the caches.
  constexpr py::ssize_t kLineFloats = 16;
  Floats memory(rows * count + kLineFloats - 1);
  const auto address = reinterpret_cast<uintptr_t>(memory.data()) / sizeof(float);
  float* const out = memory.mutable_data() + (kLineFloats - address % kLineFloats) % kLineFloats;
  {
    const ReleasedGil released;
    columns_to_rows(numbers, rows, shift ? shift->data() : nullptr,
                    order == nullptr ? nullptr : order->positions().data(), threads, out);
  }
  return Floats(shape, out, memory);
}

// The same in float64, in the order of the table and without a shift.
Doubles wide_rows_of_columns(const py::list& columns, int64_t rows, int threads) {
  const auto numbers = number_columns(columns, rows);
  Doubles to({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(numbers.size())});
  double* const out = to.mutable_data();
  const ReleasedGil released;
  columns_to_rows(numbers, rows, nullptr, nullptr, threads, out);
  return to;
}

std::unique_ptr<RowOrder> order_of(const Integers& slots, int64_t num_slots) {
  expect(num_slots >= 0, "num_slots: expected no negative number");
  const ReleasedGil released;
  return std::make_unique<RowOrder>(slots.data(), slots.size(), num_slots);
}

Integers slots_of(const py::object& order) {
  const auto& slots = order.cast<const RowOrder&>().slots();
  return Integers(static_cast<py::ssize_t>(slots.size()), slots.data(), order);
}

// Results (outputs, rows) in the order of the table.
Floats restored(const RowOrder& order, const Floats& sorted, int threads) {
  expect(sorted.ndim() == 2 && sorted.shape(0) == static_cast<py::ssize_t>(order.slots().size()),
         "results of wrong size");
  const int64_t outputs = sorted.shape(1);
  Floats to({static_cast<py::ssize_t>(outputs), static_cast<py::ssize_t>(order.num_rows())});
  float* const out = to.mutable_data();
  const ReleasedGil released;
  order.restore(sorted.data(), outputs, threads, out);
  return to;
}

// A tuple; where its texts are not UTF-8, no key is it, and messages show its bytes.
py::object decoded_tuple(const KeyView& key) {
  try {
    return tuple_of(key.type, key.text);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_UnicodeDecodeError)) throw;
    return decoded(key.text);
  }
}

// Keys as Python has them; None where one is missing. Strict: UnicodeDecodeError for text that is
// not UTF-8.
py::list keys_between(const ArrowKeys& keys, int64_t begin, int64_t end, bool strict) {
  py::list found;
  keys.for_each(begin, end, [&](const KeyView& key) {
    if (key.type == KeyType::none) {
      found.append(py::none());
    } else if (key.type == KeyType::number) {
      found.append(py::int_(key.number));
    } else if (key.type == KeyType::text) {
      found.append(decoded(key.text, strict));
    } else {
      found.append(strict ? py::object(tuple_of(key.type, key.text)) : decoded_tuple(key));
    }
  });
  return found;
}

FloatColumns float_columns(const Floats& values, std::vector<std::string> names) {
  expect(values.ndim() == 2 && !names.empty() &&
             values.shape(0) == static_cast<py::ssize_t>(names.size()),
         "expected a row of values for each name");
  return {std::move(names), values.data(), values.shape(1), keep(values)};
}

}  // namespace

void register_arrow(py::module_& m) {
  py::class_<ArrowColumn>(m, "ArrowColumn")
      .def("__len__", [](const ArrowColumn& self) { return self.length; })
      .def_property_readonly("type", [](const ArrowColumn& self) { return self.type.name; })
      .def_property_readonly("is_numeric",
                             [](const ArrowColumn& self) { return self.type.is_numeric(); })
      .def_property_readonly(
          "is_empty",
          [](const ArrowColumn& self) { return self.type.kind == ArrowType::Kind::null; })
      .def_property_readonly("has_keys", [](const ArrowColumn& self) {
        const ArrowType& plain = self.type.plain();
        return self.type.kind != ArrowType::Kind::other && (plain.is_text() || plain.is_integer());
      });

  py::class_<ArrowTable, std::shared_ptr<ArrowTable>>(m, "ArrowTable")
      .def_static("from_array", &table_of_array, py::arg("schema"), py::arg("array"))
      .def("__len__", [](const ArrowTable& self) { return self.num_rows(); })
      .def_property_readonly("has_columns", &ArrowTable::has_columns)
      .def_property_readonly("names", &names_of)
      .def("column", &column_at, py::arg("i"));

  py::class_<ArrowStream>(m, "ArrowStream")
      .def(py::init(&open_stream), py::arg("capsule"))
      .def("next", &next_batch)
      .def("rest", &rest_of);

  py::class_<ArrowKeys>(m, "ArrowKeys")
      .def(py::init<std::vector<ArrowColumn>, bool>(), py::arg("columns"), py::arg("are_tuples"))
      .def("__len__", &ArrowKeys::size)
      .def("between", &keys_between, py::arg("begin"), py::arg("end"), py::arg("strict") = false)
      .def_property_readonly("key_type",
                             [](const ArrowKeys& self) { return python_type(self.type()); });

  py::class_<RowOrder>(m, "RowOrder")
      .def(py::init(&order_of), py::arg("slots").noconvert(), py::arg("num_slots"))
      .def_property_readonly("slots", &slots_of)
      .def("restored", &restored, py::arg("sorted").noconvert(), py::arg("num_threads"));

  m.def("rows_of_columns", &rows_of_columns, py::arg("columns"), py::arg("rows"),
        py::arg("shift").noconvert(), py::arg("order"), py::arg("num_threads"));
  m.def("wide_rows_of_columns", &wide_rows_of_columns, py::arg("columns"), py::arg("rows"),
        py::arg("num_threads"));

  m.def(
      "export_schema",
      [](const std::vector<std::string>& names) {
        const FloatColumns columns = {names, nullptr, 0, nullptr};
        expect(!names.empty(), "expected names");
        return new_capsule<ArrowSchema>(
            kSchema, [&](ArrowSchema& schema) { export_schema(columns, schema); });
      },
      py::arg("names"));
  m.def(
      "export_array",
      [](const Floats& values, const std::vector<std::string>& names) {
        const FloatColumns columns = float_columns(values, names);
        return new_capsule<ArrowArray>(kArray,
                                       [&](ArrowArray& array) { export_array(columns, array); });
      },
      py::arg("values").noconvert(), py::arg("names"));
  m.def(
      "export_stream",
      [](const Floats& values, const std::vector<std::string>& names) {
        const FloatColumns columns = float_columns(values, names);
        return new_capsule<ArrowArrayStream>(
            kStream, [&](ArrowArrayStream& stream) { export_stream(columns, stream); });
      },
      py::arg("values").noconvert(), py::arg("names"));
}

}  // namespace mlpbank
