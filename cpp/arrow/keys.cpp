// From Arrow columns to KeyViews, some hundred at a time.
#include "arrow/keys.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "engine/threads.h"

namespace mlpbank {
namespace {

using Kind = ArrowType::Kind;

constexpr int64_t kBatch = 512;  // keys that are looked up together
constexpr double kNanosecondsPerKey = 40;
// A dictionary is looked up as a whole unless it has so many times more entries than there are
// rows.
constexpr int64_t kEntriesPerRow = 2;

constexpr KeyView kMissing = {KeyType::none, {}, 0};

template <class T>
T load(const void* values, int64_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(values) + i * static_cast<int64_t>(sizeof value),
              sizeof value);
  return value;
}

[[noreturn]] void fail(const char* message) { throw std::invalid_argument(message); }

// Runs `body` on several threads; what it throws is thrown again afterwards.
template <class Body>
void parallel_throwing(int threads, int64_t count, double nanoseconds, Body body) {
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  const int64_t chunk = std::clamp<int64_t>(count / 64, 1, 64);
  parallel_for(threads, {count, chunk, nanoseconds}, [&](int64_t begin, int64_t end) {
    try {
      if (!failed) body(begin, end);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

template <class Offset>
std::string_view text_at(const ArrowArray& array, int64_t i) {
  const auto from = load<Offset>(array.buffers[1], i), to = load<Offset>(array.buffers[1], i + 1);
  if (from < 0 || to < from) fail("a string array whose offsets descend");
  if (from == to) return {};
  if (array.buffers[2] == nullptr) fail("a string array without its bytes");
  return {static_cast<const char*>(array.buffers[2]) + from, static_cast<std::size_t>(to - from)};
}

// A view: the length, then the text itself up to 12 bytes, else 4 bytes of it and the buffer and
// offset where it lies.
std::string_view view_at(const ArrowArray& array, int64_t i) {
  constexpr int32_t kInline = 12;
  const char* const view = static_cast<const char*>(array.buffers[1]) + i * 16;
  const auto size = load<int32_t>(view, 0);
  if (size < 0) fail("a string_view of negative length");
  if (size <= kInline) return {view + 4, static_cast<std::size_t>(size)};
  const auto buffer = load<int32_t>(view, 2), offset = load<int32_t>(view, 3);
  const int64_t count = array.n_buffers - 3;
  if (buffer < 0 || buffer >= count || offset < 0) fail("a string_view outside its buffers");
  const auto bytes = load<int64_t>(array.buffers[array.n_buffers - 1], buffer);
  if (offset > bytes || size > bytes - offset) fail("a string_view outside its buffers");
  const auto* const data = static_cast<const char*>(array.buffers[2 + buffer]);
  if (data == nullptr) fail("a string_view array without its bytes");
  return {data + offset, static_cast<std::size_t>(size)};
}

template <class T>
int64_t integer_at(const ArrowArray& array, int64_t i) {
  const T value = load<T>(array.buffers[1], i);
  if (std::is_same_v<T, uint64_t> && value > static_cast<T>(std::numeric_limits<int64_t>::max()))
    throw std::invalid_argument("expected an int of 64 bits, got " + std::to_string(value) +
                                "; use str(key), here and in the bank");
  return static_cast<int64_t>(value);
}

void read_values(const ArrowArray& array, const ArrowType& type, int64_t first, int64_t count,
                 KeyView* views);

// Of a dictionary-encoded array; `first` counts from the beginning of its buffers.
template <class Index>
void read_dictionary(const ArrowArray& array, const ArrowType& type, int64_t first, int64_t count,
                     const uint8_t* validity, KeyView* views) {
  const ArrowArray& dictionary = *array.dictionary;
  for (int64_t i = 0; i < count; ++i) {
    views[i] = kMissing;
    if (validity != nullptr && !bit_at(validity, first + i)) continue;
    const Index index = load<Index>(array.buffers[1], first + i);
    if (index < 0 || static_cast<uint64_t>(index) >= static_cast<uint64_t>(dictionary.length))
      fail("an index outside its dictionary");
    read_values(dictionary, *type.values, dictionary.offset + static_cast<int64_t>(index), 1,
                views + i);
  }
}

// Calls visit(T()) with the type T of an integer.
template <class Visit>
void with_integer(Kind kind, Visit visit) {
  switch (kind) {
    case Kind::int8:
      return visit(int8_t{});
    case Kind::int16:
      return visit(int16_t{});
    case Kind::int32:
      return visit(int32_t{});
    case Kind::int64:
      return visit(int64_t{});
    case Kind::uint8:
      return visit(uint8_t{});
    case Kind::uint16:
      return visit(uint16_t{});
    case Kind::uint32:
      return visit(uint32_t{});
    default:
      return visit(uint64_t{});
  }
}

template <class Read>
void read_each(int64_t count, const uint8_t* validity, int64_t first, KeyView* views, Read read) {
  for (int64_t i = 0; i < count; ++i) {
    const bool there = validity == nullptr || bit_at(validity, first + i);
    views[i] = there ? read(first + i) : kMissing;
  }
}

void read_values(const ArrowArray& array, const ArrowType& type, int64_t first, int64_t count,
                 KeyView* views) {
  const uint8_t* const validity = ArrowChunk{&array, 0, 0, 0}.validity();
  if (type.values != nullptr) {
    with_integer(type.kind, [&](auto index) {
      read_dictionary<decltype(index)>(array, type, first, count, validity, views);
    });
  } else if (type.kind == Kind::text) {
    read_each(count, validity, first, views,
              [&](int64_t i) { return KeyView::of(text_at<int32_t>(array, i)); });
  } else if (type.kind == Kind::large_text) {
    read_each(count, validity, first, views,
              [&](int64_t i) { return KeyView::of(text_at<int64_t>(array, i)); });
  } else if (type.kind == Kind::text_view) {
    read_each(count, validity, first, views,
              [&](int64_t i) { return KeyView::of(view_at(array, i)); });
  } else {
    with_integer(type.kind, [&](auto integer) {
      read_each(count, validity, first, views,
                [&](int64_t i) { return KeyView::of(integer_at<decltype(integer)>(array, i)); });
    });
  }
}

// Rows [begin, begin + count) of a column.
void read_column(const ArrowColumn& column, int64_t begin, int64_t count, KeyView* views) {
  const auto& chunks = column.chunks;
  auto chunk =
      std::upper_bound(chunks.begin(), chunks.end(), begin,
                       [](int64_t row, const ArrowChunk& other) { return row < other.begin; });
  --chunk;  // chunks are not empty and the first one begins at 0
  for (const int64_t end = begin + count; begin < end; ++chunk) {
    const int64_t first = begin - chunk->begin;
    const int64_t here = std::min(end - begin, chunk->length - first);
    read_values(*chunk->array, column.type, chunk->offset + first, here, views);
    begin += here;
    views += here;
  }
}

// Appends a part of a tuple as a KeyView has it.
void append(std::string& bytes, const KeyView& part) {
  const auto number = [&](uint64_t value, int size) {
    for (int i = 0; i < size; ++i) bytes += static_cast<char>(value >> 8 * i);
  };
  if (part.type == KeyType::number) return number(static_cast<uint64_t>(part.number), 8);
  if (part.text.size() >> 32 != 0) fail("a text of 4 GiB or more");
  number(part.text.size(), 4);
  bytes += part.text;
}

// Keys, some at a time.
class Reader {
 public:
  Reader(const std::vector<ArrowColumn>& columns, KeyType type)
      : columns_(columns),
        type_(type),
        views_(kBatch),
        parts_(is_tuple(type) ? columns.size() * kBatch : 0),
        ends_(is_tuple(type) ? kBatch : 0) {}

  // The keys of rows [begin, begin + count); those of type none are missing. They are valid until
  // the next are read.
  const KeyView* read(int64_t begin, int64_t count) {
    if (!is_tuple(type_)) {
      read_column(columns_[0], begin, count, views_.data());
      return views_.data();
    }
    for (std::size_t c = 0; c < columns_.size(); ++c)
      read_column(columns_[c], begin, count, parts_.data() + c * kBatch);
    bytes_.clear();
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      views_[i] = {type_, {}, 0};
      for (std::size_t c = 0; c < columns_.size(); ++c) {
        const KeyView& part = parts_[c * kBatch + i];
        if (part.type == KeyType::none) {
          views_[i] = kMissing;
          break;
        }
        append(bytes_, part);
      }
      ends_[i] = bytes_.size();
    }
    std::size_t from = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); from = ends_[i++]) {
      if (views_[i].type == KeyType::none) continue;
      views_[i].text = std::string_view(bytes_).substr(from, ends_[i] - from);
    }
    return views_.data();
  }

 private:
  const std::vector<ArrowColumn>& columns_;
  const KeyType type_;
  std::vector<KeyView> views_, parts_;
  std::vector<std::size_t> ends_;
  std::string bytes_;
};

// Looks up all keys of columns.
void find_rows(const std::vector<ArrowColumn>& columns, KeyType type,
               const ArrowKeys::FindMany& find, int threads, int64_t* found) {
  const int64_t count = columns[0].length, batches = (count + kBatch - 1) / kBatch;
  const double nanoseconds = kNanosecondsPerKey * static_cast<double>(count);
  parallel_throwing(threads, batches, nanoseconds, [&](int64_t first, int64_t last) {
    Reader reader(columns, type);
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i * kBatch, here = std::min(kBatch, count - begin);
      const KeyView* const keys = reader.read(begin, here);
      find(keys, here, found + begin);
      for (int64_t k = 0; k < here; ++k) {
        if (keys[k].type == KeyType::none) found[begin + k] = kNoSlot;
      }
    }
  });
}

bool are_same(const ArrowArray& a, const ArrowArray& b) {
  return a.n_buffers == b.n_buffers && a.offset == b.offset && a.length == b.length &&
         a.dictionary == nullptr && b.dictionary == nullptr &&
         std::equal(a.buffers, a.buffers + a.n_buffers, b.buffers);
}

}  // namespace

ArrowKeys::ArrowKeys(std::vector<ArrowColumn> columns, bool are_tuples)
    : columns_(std::move(columns)) {
  if (columns_.empty() || (!are_tuples && columns_.size() > 1) || columns_.size() > kMaxParts)
    fail("expected one column of keys, or 1 to 16 of their parts");
  TupleType tuple;
  for (const ArrowColumn& column : columns_) {
    const ArrowType& plain = column.type.plain();
    if (column.type.kind == Kind::other || (!plain.is_text() && !plain.is_integer()))
      fail("expected columns of text or integers");
    if (column.length != size()) fail("columns of different lengths");
    type_ = plain.is_text() ? KeyType::text : KeyType::number;
    tuple.add(type_ == KeyType::number);
  }
  if (are_tuples) type_ = tuple.type();
}

void ArrowKeys::for_each(int64_t begin, int64_t end,
                         const std::function<void(const KeyView&)>& visit) const {
  if (begin < 0 || begin > end || end > size()) throw std::out_of_range("keys: no such rows");
  Reader reader(columns_, type_);
  for (int64_t at = begin; at < end; at += kBatch) {
    const int64_t here = std::min(kBatch, end - at);
    const KeyView* const keys = reader.read(at, here);
    std::for_each(keys, keys + here, visit);
  }
}

int64_t ArrowKeys::find(const FindMany& find, int threads, int64_t* found) const {
  if (!find_by_dictionary(find, threads, found)) find_rows(columns_, type_, find, threads, found);
  return std::count_if(found, found + size(), [](int64_t one) { return one < 0; });
}

// Looks up each entry of dictionaries once. False: that would not pay, or there are none.
bool ArrowKeys::find_by_dictionary(const FindMany& find, int threads, int64_t* found) const {
  const ArrowColumn& column = columns_[0];
  // An entry of 64 bits without a sign may be no key, which matters only in rows that have it.
  const bool simple = !is_tuple(type_) && column.type.values != nullptr &&
                      column.type.values->values == nullptr &&
                      column.type.values->kind != Kind::uint64;
  if (!simple) return false;
  int64_t entries = 0;
  const ArrowArray* known = nullptr;  // chunks often share one dictionary
  for (const ArrowChunk& chunk : column.chunks) {
    const ArrowArray& dictionary = *chunk.array->dictionary;
    if (known == nullptr || !are_same(*known, dictionary)) entries += dictionary.length;
    if (entries / kEntriesPerRow > size()) return false;
    known = &dictionary;
  }
  known = nullptr;
  std::vector<int64_t> slots;
  for (const ArrowChunk& chunk : column.chunks) {
    const ArrowArray& dictionary = *chunk.array->dictionary;
    if (known == nullptr || !are_same(*known, dictionary)) {
      ArrowColumn values;
      values.type = *column.type.values;
      values.length = dictionary.length;
      if (values.length > 0)
        values.chunks.push_back({&dictionary, dictionary.offset, dictionary.length, 0});
      slots.resize(static_cast<std::size_t>(dictionary.length));
      find_rows({values}, type_, find, threads, slots.data());
      known = &dictionary;
    }
    const uint8_t* const validity = chunk.validity();
    const auto size = static_cast<uint64_t>(slots.size());
    with_integer(column.type.kind, [&](auto type) {
      using Index = decltype(type);
      int64_t* const to = found + chunk.begin;
      const int64_t batches = (chunk.length + kBatch - 1) / kBatch;
      const auto nanoseconds = static_cast<double>(chunk.length);
      parallel_throwing(threads, batches, nanoseconds, [&](int64_t first, int64_t last) {
        for (int64_t i = first * kBatch; i < std::min(last * kBatch, chunk.length); ++i) {
          const int64_t at = chunk.offset + i;
          to[i] = kNoSlot;
          if (validity != nullptr && !bit_at(validity, at)) continue;
          const auto index = load<Index>(chunk.array->buffers[1], at);
          if (index < 0 || static_cast<uint64_t>(index) >= size)
            fail("an index outside its dictionary");
          to[i] = slots[static_cast<std::size_t>(index)];
        }
      });
    });
  }
  return true;
}

}  // namespace mlpbank
