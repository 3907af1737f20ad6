// What a bank that follows a folder needs: the folder's head, and changes as its index tells them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bank/bank.h"
#include "bank/head.h"
#include "crc32.h"
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

// Keys that are tuples come as bytes, and without weights segment and offset are None.
Bank::Followed followed(const py::tuple& row, KeyType type, const Segments& segments,
                        int64_t block_bytes) {
  Bank::Followed change = {};
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
  const auto segment = segments.find(item<int64_t>(row, kSegment));
  const auto offset = item<int64_t>(row, kOffset);
  expect(segment != segments.end(), "segment: not there");
  expect(offset >= 0 && offset % kBlockAlignment == 0 &&
             offset <= segment->second.nbytes() - block_bytes,
         "offset: outside of its segment");
  change.block = segment->second.data() + offset;
  return change;
}

// Changes that were read from an index. They point into the segments, which the caller keeps.
class Changes {
 public:
  Changes(const py::list& rows, const py::object& key_type, const Segments& segments,
          int64_t block_models, int64_t block_bytes)
      : block_models_(block_models), block_bytes_(block_bytes) {
    expect(block_models > 0 && block_bytes > 0, "block: expected sizes above 0");
    const KeyType type = key_type.is_none() ? KeyType::none : key_type_of(key_type);
    changes_.reserve(rows.size());
    written_.reserve(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto row = rows[i].cast<py::tuple>();
      expect(row.size() == kColumns, "row of wrong size");
      if (!is_kind(row, "load") && !is_kind(row, "remove")) continue;  // tells nothing of a model
      changes_.push_back(followed(row, type, segments, block_bytes_));
      const py::handle checksum = row[kChecksum];
      written_.push_back({i, item<uint64_t>(row, kSequence),
                          PyLong_Check(checksum.ptr()) ? checksum.cast<int64_t>() : -1});
    }
  }

  // The first row whose block is not what was written. Of several changes of one block the last
  // counts, and those from `first_own` on were written by this process itself; 0: none.
  std::optional<std::size_t> damaged_row(uint64_t first_own) const {
    const ReleasedGil released;
    std::unordered_map<int64_t, std::size_t> last;
    last.reserve(changes_.size());
    for (std::size_t i = 0; i < changes_.size(); ++i) {
      if (changes_[i].block != nullptr) last[changes_[i].slot / block_models_] = i;
    }
    for (std::size_t i = 0; i < changes_.size(); ++i) {
      const Bank::Followed& change = changes_[i];
      if (change.block == nullptr || last[change.slot / block_models_] != i) continue;
      if (first_own != 0 && written_[i].sequence >= first_own) continue;
      if (crc32(change.block, static_cast<std::size_t>(block_bytes_)) != written_[i].checksum)
        return written_[i].row;
    }
    return std::nullopt;
  }

  // Makes the changes in a bank, which keeps the memory of segments that are new to it.
  void follow(Bank& bank, const std::vector<ByteArray>& new_segments, uint64_t sequence) const {
    std::list<std::shared_ptr<const void>> memory;
    for (const ByteArray& segment : new_segments) memory.push_back(keep(segment));
    const ReleasedGil released;
    bank.follow(changes_, sequence, std::move(memory));
  }

 private:
  struct Written {
    std::size_t row;
    uint64_t sequence;
    int64_t checksum;  // negative: none
  };

  const int64_t block_models_, block_bytes_;
  std::vector<Bank::Followed> changes_;
  std::vector<Written> written_;  // what else a row tells of each
};

uint32_t crc32_of(const py::buffer& data, uint32_t before) {
  const py::buffer_info bytes = data.request();
  expect(PyBuffer_IsContiguous(bytes.view(), 'C') != 0, "data: expected one piece of memory");
  const ReleasedGil released;
  return crc32(static_cast<const uint8_t*>(bytes.ptr),
               static_cast<std::size_t>(bytes.size * bytes.itemsize), before);
}

}  // namespace

void register_live(py::module_& m) {
  py::class_<Head, std::shared_ptr<Head>>(m, "Head")
      .def(py::init(&make_head), py::arg("page").noconvert())
      .def_property_readonly("sequence", &Head::sequence)
      .def("publish", &Head::publish, py::arg("sequence"))
      .def("reset", &Head::reset, py::arg("sequence"))
      .def("commit", &commit, py::arg("commit_index"), py::arg("sequence"));

  py::class_<Changes>(m, "Changes")
      .def(py::init<const py::list&, const py::object&, const Segments&, int64_t, int64_t>(),
           py::arg("rows"), py::arg("key_type"), py::arg("segments"), py::arg("block_models"),
           py::arg("block_bytes"))
      .def("damaged_row", &Changes::damaged_row, py::arg("first_own"))
      .def("follow", &Changes::follow, py::arg("bank"), py::arg("new_segments"),
           py::arg("sequence"));

  m.def("crc32", &crc32_of, py::arg("data"), py::arg("before") = 0);
}

}  // namespace mlpbank
