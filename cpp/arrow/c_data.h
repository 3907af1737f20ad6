// The structs of the Arrow C data and stream interfaces, as the specification has them:
// https://arrow.apache.org/docs/format/CDataInterface.html and CStreamInterface.html.
//
// Who holds a struct calls its `release` once, or moves it: copies it and sets `release` of the
// original to null. Children and dictionaries are released with their parents.
#pragma once

#include <cstdint>

extern "C" {

#ifndef ARROW_C_DATA_INTERFACE
#  define ARROW_C_DATA_INTERFACE

#  define ARROW_FLAG_DICTIONARY_ORDERED 1
#  define ARROW_FLAG_NULLABLE 2
#  define ARROW_FLAG_MAP_KEYS_SORTED 4

struct ArrowSchema {
  const char* format;
  const char* name;
  const char* metadata;
  int64_t flags;
  int64_t n_children;
  ArrowSchema** children;
  ArrowSchema* dictionary;
  void (*release)(ArrowSchema*);
  void* private_data;
};

struct ArrowArray {
  int64_t length;
  int64_t null_count;
  int64_t offset;
  int64_t n_buffers;
  int64_t n_children;
  const void** buffers;
  ArrowArray** children;
  ArrowArray* dictionary;
  void (*release)(ArrowArray*);
  void* private_data;
};

#endif  // ARROW_C_DATA_INTERFACE

#ifndef ARROW_C_STREAM_INTERFACE
#  define ARROW_C_STREAM_INTERFACE

struct ArrowArrayStream {
  int (*get_schema)(ArrowArrayStream*, ArrowSchema* out);
  int (*get_next)(ArrowArrayStream*, ArrowArray* out);
  const char* (*get_last_error)(ArrowArrayStream*);
  void (*release)(ArrowArrayStream*);
  void* private_data;
};

#endif  // ARROW_C_STREAM_INTERFACE

}  // extern "C"

namespace mlpbank {

// Holds one of the structs and releases it once.
template <class Struct>
class ArrowOwned {
 public:
  ArrowOwned() = default;
  // Moves `from`, which is released from then on.
  explicit ArrowOwned(Struct& from) : held_(from) { from.release = nullptr; }
  ~ArrowOwned() {
    if (held_.release != nullptr) held_.release(&held_);
  }
  ArrowOwned(ArrowOwned&& other) noexcept : ArrowOwned(other.held_) {}
  ArrowOwned& operator=(ArrowOwned&&) = delete;

  // To be filled by a producer, once.
  Struct* get() { return &held_; }
  const Struct& operator*() const { return held_; }
  const Struct* operator->() const { return &held_; }
  bool is_released() const { return held_.release == nullptr; }

 private:
  Struct held_{};
};

}  // namespace mlpbank
