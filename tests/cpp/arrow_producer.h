// Producers of Arrow arrays for tests: every buffer is memory of exactly its size, so that a read
// past its end is found, and releases are counted.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrow/c_data.h"
#include "check.h"

namespace mlpbank {

inline int live_structs = 0;  // filled and not yet released, without children

template <class Struct>
struct Produced {
  std::string format, name, metadata;
  bool has_metadata = false;
  std::vector<std::unique_ptr<char[]>> memory;
  std::vector<const void*> buffers;
  std::vector<Struct> children;
  std::vector<Struct*> pointers;
  std::unique_ptr<Struct> dictionary;

  static void release(Struct* released) {
    CHECK(released->release != nullptr);
    std::unique_ptr<Produced> held(static_cast<Produced*>(released->private_data));
    for (Struct& child : held->children) {
      if (child.release != nullptr) child.release(&child);
    }
    if (held->dictionary != nullptr && held->dictionary->release != nullptr)
      held->dictionary->release(held->dictionary.get());
    released->release = nullptr;
    --live_structs;
  }

  static Struct give(std::unique_ptr<Produced> held) {
    Struct made = {};
    for (Struct& child : held->children) held->pointers.push_back(&child);
    made.n_children = static_cast<int64_t>(held->children.size());
    made.children = held->pointers.data();
    made.dictionary = held->dictionary.get();
    made.release = &release;
    made.private_data = held.release();
    ++live_structs;
    return made;
  }
};

inline ArrowSchema make_schema(const std::string& format, const std::string& name = "",
                               std::vector<ArrowSchema> children = {},
                               const ArrowSchema* dictionary = nullptr,
                               const std::string& metadata = "") {
  auto held = std::make_unique<Produced<ArrowSchema>>();
  held->format = format;
  held->name = name;
  held->metadata = metadata;
  held->children = std::move(children);
  if (dictionary != nullptr) held->dictionary = std::make_unique<ArrowSchema>(*dictionary);
  auto& kept = *held;
  ArrowSchema schema = Produced<ArrowSchema>::give(std::move(held));
  schema.format = kept.format.c_str();
  schema.name = kept.name.c_str();
  schema.metadata = metadata.empty() ? nullptr : kept.metadata.data();
  return schema;
}

// Bytes of a buffer; none: the buffer is null.
using Buffer = std::vector<char>;

template <class T>
Buffer buffer(const std::vector<T>& values) {
  Buffer bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

inline Buffer bitmap(const std::vector<bool>& bits) {
  Buffer bytes((bits.size() + 7) / 8);
  for (std::size_t i = 0; i < bits.size(); ++i)
    bytes[i / 8] = static_cast<char>(bytes[i / 8] | (bits[i] ? 1 << i % 8 : 0));
  return bytes;
}

inline ArrowArray make_array(int64_t length, const std::vector<Buffer>& buffers, int64_t offset = 0,
                             int64_t nulls = 0, const ArrowArray* dictionary = nullptr,
                             std::vector<ArrowArray> children = {}) {
  auto held = std::make_unique<Produced<ArrowArray>>();
  for (const Buffer& bytes : buffers) {
    held->memory.emplace_back(bytes.empty() ? nullptr : new char[bytes.size()]);
    if (!bytes.empty()) std::memcpy(held->memory.back().get(), bytes.data(), bytes.size());
    held->buffers.push_back(held->memory.back().get());
  }
  held->children = std::move(children);
  if (dictionary != nullptr) held->dictionary = std::make_unique<ArrowArray>(*dictionary);
  auto& kept = *held;
  ArrowArray array = Produced<ArrowArray>::give(std::move(held));
  array.length = length;
  array.offset = offset;
  array.null_count = nulls;
  array.n_buffers = static_cast<int64_t>(buffers.size());
  array.buffers = kept.buffers.data();
  return array;
}

// Offsets and bytes of texts, with the bitmap before them.
template <class Offset>
std::vector<Buffer> text_buffers(const std::vector<std::string>& texts, const Buffer& validity) {
  std::vector<Offset> offsets = {0};
  std::string bytes;
  for (const std::string& text : texts) {
    bytes += text;
    offsets.push_back(static_cast<Offset>(bytes.size()));
  }
  return {validity, buffer(offsets), Buffer(bytes.begin(), bytes.end())};
}

// Views of texts; those of more than 12 bytes lie in two buffers by turns.
inline std::vector<Buffer> view_buffers(const std::vector<std::string>& texts,
                                        const Buffer& validity) {
  Buffer views, data[2];
  int turn = 0;
  for (const std::string& text : texts) {
    int32_t view[4] = {static_cast<int32_t>(text.size()), 0, 0, 0};
    if (text.size() <= 12) {
      std::memcpy(view + 1, text.data(), text.size());
    } else {
      Buffer& to = data[turn ^= 1];
      std::memcpy(view + 1, text.data(), 4);
      view[2] = turn;
      view[3] = static_cast<int32_t>(to.size());
      to.insert(to.end(), text.begin(), text.end());
    }
    const auto* const bytes = reinterpret_cast<const char*>(view);
    views.insert(views.end(), bytes, bytes + sizeof view);
  }
  const std::vector<int64_t> sizes = {static_cast<int64_t>(data[0].size()),
                                      static_cast<int64_t>(data[1].size())};
  return {validity, views, data[0], data[1], buffer(sizes)};
}

// A stream of arrays that fails where it is told to.
struct StreamSource {
  std::string format = "+s";
  std::vector<ArrowSchema> columns;
  std::vector<ArrowArray> batches;
  std::size_t given = 0;
  bool schema_fails = false, end_fails = false;

  static StreamSource& of(ArrowArrayStream* stream) {
    return *static_cast<StreamSource*>(stream->private_data);
  }
  ~StreamSource() {
    for (ArrowSchema& column : columns) {
      if (column.release != nullptr) column.release(&column);
    }
    for (; given < batches.size(); ++given) batches[given].release(&batches[given]);
  }

  static ArrowArrayStream stream(std::unique_ptr<StreamSource> source) {
    ArrowArrayStream made = {};
    made.get_schema = [](ArrowArrayStream* self, ArrowSchema* out) {
      StreamSource& from = of(self);
      if (from.schema_fails) return 5;
      *out = make_schema(from.format, "", std::move(from.columns));
      from.columns.clear();
      return 0;
    };
    made.get_next = [](ArrowArrayStream* self, ArrowArray* out) {
      StreamSource& from = of(self);
      if (from.given < from.batches.size()) {
        *out = from.batches[from.given++];
        return 0;
      }
      *out = {};
      return from.end_fails ? 5 : 0;
    };
    made.get_last_error = [](ArrowArrayStream*) { return "the disk is gone"; };
    made.release = [](ArrowArrayStream* self) {
      CHECK(self->release != nullptr);
      delete &of(self);
      self->release = nullptr;
      --live_structs;
    };
    made.private_data = source.release();
    ++live_structs;
    return made;
  }
};

}  // namespace mlpbank
