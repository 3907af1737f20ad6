// What a bank that follows a folder needs: the folder's head, and changes as its index tells them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <fcntl.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bank/bank.h"
#include "bank/follower.h"
#include "bank/head.h"
#include "crc32.h"
#include "python/arrays.h"
#include "python/gil.h"
#include "python/key_arguments.h"
#include "python/register.h"

namespace mlpbank {
namespace {

using Own = Follower::Own;

// Where they lie in the head, in bytes.
constexpr py::ssize_t kHeadWord = 16, kRecentChanges = 4096;
constexpr py::ssize_t kHeadBytes =
    kRecentChanges + RecentChanges::kEntries * RecentChanges::kEntryBytes;

// Lets the system begin to write bytes of a file to its disk, where it can be told to: a sync that
// comes soon has less to wait for. That sync says what goes wrong.
void begin_write_back(int file, int64_t offset, int64_t nbytes) {
#ifdef SYNC_FILE_RANGE_WRITE
  const ReleasedGil released;
  (void)sync_file_range(file, offset, nbytes, SYNC_FILE_RANGE_WRITE);
#else
  (void)file, (void)offset, (void)nbytes;
#endif
}

// A head of one page has no room for changes.
std::shared_ptr<Head> make_head(const ByteArray& pages) {
  expect(pages.nbytes() == kRecentChanges || pages.nbytes() == kHeadBytes, "head of wrong size");
  expect(reinterpret_cast<uintptr_t>(pages.data()) % alignof(uint64_t) == 0, "head not aligned");
  // Pages that may not be written to are mapped so that the attempt ends the process.
  auto* const data = const_cast<uint8_t*>(pages.data());
  const auto at = [data](py::ssize_t offset) { return reinterpret_cast<uint64_t*>(data + offset); };
  const bool has_room = pages.nbytes() > kRecentChanges;
  const RecentChanges recent(has_room ? at(kRecentChanges) : nullptr, pages.writeable());
  return std::make_shared<Head>(at(kHeadWord), recent, keep(pages));
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

// Columns of a row of the index, see Change in files/_live_index.py.
enum Column : std::size_t {
  kSequence,
  kLast,
  kKind,
  kSlot,
  kKey,
  kVersion,
  kRevision,
  kLoadedAt,
  kReuseCount,
  kSegment,
  kOffset,
  kChecksum,
  kColumns
};

bool is_kind(const py::tuple& row, const char* kind) {
  const py::handle text = row[kKind];
  return PyUnicode_Check(text.ptr()) && PyUnicode_CompareWithASCIIString(text.ptr(), kind) == 0;
}

bool tells_of_model(const py::tuple& row) { return is_kind(row, "load") || is_kind(row, "remove"); }

// The type of a key of a row; that of tuples without their parts.
KeyType stored_type(const py::tuple& row) {
  const py::handle key = row[kKey];
  if (PyLong_Check(key.ptr())) return KeyType::number;
  return PyUnicode_Check(key.ptr()) ? KeyType::text : static_cast<KeyType>(kTuple);
}

// Keys that are tuples come as bytes, and without weights segment and offset are None.
Bank::Followed followed(const py::tuple& row, KeyType type) {
  Bank::Followed change = {};
  change.sequence = item<uint64_t>(row, kSequence);
  change.is_removal = is_kind(row, "remove");
  change.slot = item<int64_t>(row, kSlot);
  expect(change.slot >= 0 && change.slot < INT32_MAX, "slot: out of range");
  change.type = type;
  if (type == KeyType::number) {
    change.number = item<int64_t>(row, kKey);
  } else if (type == KeyType::text) {
    change.text = text(row, kKey);
  } else {
    change.text = item<py::bytes>(row, kKey);
  }
  if (!change.is_removal) {
    if (!row[kVersion].is_none()) change.record.version = text(row, kVersion);
    change.record.revision = item<int64_t>(row, kRevision);
    change.record.loaded_at = item<double>(row, kLoadedAt);
  }
  change.reuse_count = item<uint32_t>(row, kReuseCount);
  if (row[kSegment].is_none()) return change;
  change.segment = item<int64_t>(row, kSegment);
  expect(change.segment >= 0, "segment: out of range");
  change.offset = item<int64_t>(row, kOffset);
  const py::handle checksum = row[kChecksum];
  if (PyLong_Check(checksum.ptr())) change.checksum = checksum.cast<int64_t>();
  return change;
}

// Commits changes `first` to `last`, and tells all others of them: `rows`, or where that is empty
// changes that followers have to read in the index. Nothing of Python runs between the two, so
// nothing is committed and not told.
void commit(Head& self, const py::object& commit_index, uint64_t first, uint64_t last,
            const py::list& rows) {
  const uint64_t count = last - first + 1;
  expect(rows.empty() || rows.size() == count, "expected a row for each change");
  constexpr uint64_t kMost = RecentChanges::kEntries;
  for (uint64_t i = count > kMost ? count - kMost : 0; i < count; ++i) {
    if (rows.empty()) {
      self.recent().remove(first + i);
      continue;
    }
    const auto row = rows[i].cast<py::tuple>();
    expect(row.size() == kColumns && tells_of_model(row), "row of wrong size or kind");
    self.recent().store(followed(row, stored_type(row)));
  }
  commit_index();
  self.publish(last);
}

Segments as_segments(const std::map<int64_t, ByteArray>& arrays) {
  Segments segments;
  for (const auto& [number, array] : arrays) {
    segments[number] = {array.data(), array.nbytes(), keep(array)};
  }
  return segments;
}

// Changes that were read from an index, for a follower: some of their blocks lie in segments that
// are new to it.
class Changes {
 public:
  Changes(std::shared_ptr<Follower> follower, const py::list& rows, const py::object& key_type,
          const std::map<int64_t, ByteArray>& new_segments)
      : follower_(std::move(follower)), segments_(as_segments(new_segments)) {
    const KeyType type = key_type.is_none() ? KeyType::none : key_type_of(key_type);
    changes_.reserve(rows.size());
    rows_.reserve(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto row = rows[i].cast<py::tuple>();
      expect(row.size() == kColumns, "row of wrong size");
      if (!tells_of_model(row)) continue;
      changes_.push_back(followed(row, type));
      rows_.push_back(i);
    }
    const ReleasedGil released;
    follower_->find_blocks(changes_, segments_);
  }

  // The first row whose block is not what was written, see Follower.
  std::optional<std::size_t> damaged_row(Own own) const {
    std::optional<std::size_t> change;
    {
      const ReleasedGil released;
      change = follower_->first_damaged(changes_, own);
    }
    return change ? std::optional(rows_[*change]) : std::nullopt;
  }

  // Makes the changes, if the bank still is at change `after`, and returns whether it was.
  bool follow(uint64_t after, uint64_t sequence) const {
    const ReleasedGil released;
    return follower_->follow(changes_, after, sequence, segments_);
  }

 private:
  const std::shared_ptr<Follower> follower_;
  const Segments segments_;
  std::vector<Bank::Followed> changes_;
  std::vector<std::size_t> rows_;  // of each
};

std::pair<bool, std::optional<int64_t>> catch_up(Follower& self, Own own) {
  const ReleasedGil released;
  const Follower::Caught caught = self.catch_up(own);
  return {caught.up, caught.unknown_segment};
}

void add_segment(Follower& self, int64_t number, const ByteArray& array) {
  const Segment segment = {array.data(), array.nbytes(), keep(array)};
  const ReleasedGil released;
  self.add_segment(number, segment);
}

uint32_t crc32_of(const py::buffer& data, uint32_t before) {
  const py::buffer_info bytes = data.request();
  expect(PyBuffer_IsContiguous(bytes.view(), 'C') != 0, "data: expected one piece of memory");
  const ReleasedGil released;
  return crc32(static_cast<const uint8_t*>(bytes.ptr),
               static_cast<std::size_t>(bytes.size * bytes.itemsize), before);
}

}  // namespace

void register_live(py::module_& m) {
  auto head = py::class_<Head, std::shared_ptr<Head>>(m, "Head");
  head.def(py::init(&make_head), py::arg("pages").noconvert())
      .def_property_readonly("sequence", &Head::sequence)
      .def("publish", &Head::publish, py::arg("sequence"))
      .def("reset", &Head::reset, py::arg("sequence"))
      .def("commit", &commit, py::arg("commit_index"), py::arg("first"), py::arg("last"),
           py::arg("rows"));
  head.attr("nbytes") = kHeadBytes;

  py::class_<Follower, std::shared_ptr<Follower>>(m, "Follower")
      .def(py::init<std::shared_ptr<Head>, std::shared_ptr<Bank>>(), py::arg("head"),
           py::arg("bank"))
      .def_property_readonly("segments", &Follower::segments)
      .def("add_segment", &add_segment, py::arg("number"), py::arg("segment").noconvert())
      .def("catch_up", &catch_up, py::arg("own"));

  py::class_<Changes>(m, "Changes")
      .def(py::init<std::shared_ptr<Follower>, const py::list&, const py::object&,
                    const std::map<int64_t, ByteArray>&>(),
           py::arg("follower"), py::arg("rows"), py::arg("key_type"), py::arg("new_segments"))
      .def("damaged_row", &Changes::damaged_row, py::arg("own"))
      .def("follow", &Changes::follow, py::arg("after"), py::arg("sequence"));

  m.def("begin_write_back", &begin_write_back, py::arg("file"), py::arg("offset"),
        py::arg("nbytes"));
  m.def("crc32", &crc32_of, py::arg("data"), py::arg("before") = 0);
}

}  // namespace mlpbank
