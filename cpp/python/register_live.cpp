// What a bank that follows a folder needs: the folder's head, and changes as its index tells them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bank/bank.h"
#include "bank/head.h"
#include "python/arrays.h"
#include "python/gil.h"
#include "python/key_arguments.h"
#include "python/register.h"

namespace mlpbank {
namespace {

constexpr py::ssize_t kHeadWord = 16;  // where it lies in the page, in bytes

std::shared_ptr<Head> make_head(const ByteArray& page) {
  expect(page.nbytes() >= kHeadWord + 8, "page of wrong size");
  const auto* const word = page.data() + kHeadWord;
  expect(reinterpret_cast<uintptr_t>(word) % alignof(uint64_t) == 0, "page not aligned");
  return std::make_shared<Head>(reinterpret_cast<uint64_t*>(const_cast<uint8_t*>(word)),
                                keep(page));
}

// Nothing of Python runs between the two, so nothing is committed and not told.
void commit(Head& self, const py::object& commit_index, uint64_t sequence) {
  commit_index();
  self.publish(sequence);
}

template <class Value>
Value item(const py::tuple& row, std::size_t i) {
  return row[i].cast<Value>();
}

// An std::string is made of bytes, too.
std::string text(const py::tuple& row, std::size_t i) {
  expect(py::isinstance<py::str>(row[i]), "text: expected a str");
  return item<std::string>(row, i);
}

using Segments = std::map<int64_t, ByteArray>;

// Rows are (is_removal, slot, key, version, revision, loaded_at, reuse_count, segment, offset); keys
// that are tuples come as bytes, and without weights segment and offset are None.
Bank::Followed followed(const py::tuple& row, KeyType type, const Segments& segments,
                        int64_t block_bytes) {
  expect(row.size() == 9, "row of wrong size");
  Bank::Followed change = {};
  change.is_removal = item<bool>(row, 0);
  change.slot = item<int64_t>(row, 1);
  expect(change.slot >= 0 && change.slot < INT32_MAX, "slot: out of range");
  change.type = type;
  if (type == KeyType::number) {
    change.number = item<int64_t>(row, 2);
  } else if (type == KeyType::text) {
    change.text = text(row, 2);
  } else {
    change.text = item<py::bytes>(row, 2);
  }
  if (!change.is_removal) {
    change.record = {text(row, 3), item<int64_t>(row, 4), item<double>(row, 5)};
  }
  change.reuse_count = item<uint32_t>(row, 6);
  if (row[7].is_none()) return change;
  const auto segment = segments.find(item<int64_t>(row, 7));
  const auto offset = item<int64_t>(row, 8);
  expect(segment != segments.end(), "segment: not there");
  expect(offset >= 0 && offset % kBlockAlignment == 0 &&
             offset <= segment->second.nbytes() - block_bytes,
         "offset: outside of its segment");
  change.block = segment->second.data() + offset;
  return change;
}

// `segments` holds all that the rows name. Those whose memory is new here are kept.
void follow(Bank& self, const py::list& rows, const py::object& key_type, const Segments& segments,
            const std::vector<ByteArray>& new_segments, uint64_t sequence) {
  std::vector<Bank::Followed> changes;
  changes.reserve(rows.size());
  const KeyType type = key_type.is_none() ? KeyType::none : key_type_of(key_type);
  const int64_t bytes = self.weights()->layout().block_bytes();
  for (const py::handle row : rows) {
    changes.push_back(followed(py::reinterpret_borrow<py::tuple>(row), type, segments, bytes));
  }
  std::vector<std::shared_ptr<const void>> memory;
  for (const ByteArray& segment : new_segments) memory.push_back(keep(segment));
  const ReleasedGil released;
  self.follow(changes, sequence, memory);
}

}  // namespace

void register_live(py::module_& m) {
  py::class_<Head, std::shared_ptr<Head>>(m, "Head")
      .def(py::init(&make_head), py::arg("page").noconvert())
      .def_property_readonly("sequence", &Head::sequence)
      .def("publish", &Head::publish, py::arg("sequence"))
      .def("commit", &commit, py::arg("commit_index"), py::arg("sequence"));

  m.def("follow", &follow, py::arg("bank"), py::arg("rows"), py::arg("key_type"),
        py::arg("segments"), py::arg("new_segments"), py::arg("sequence"));
}

}  // namespace mlpbank
