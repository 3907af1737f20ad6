// Tables and columns that others lend through the Arrow C data interface.
//
// Producers are not trusted further than they must be. Before a column is read, the lengths,
// offsets, numbers of buffers and pointers of its arrays are checked against each other and its
// type, and later each offset, index and view before it is followed. What nobody can check is how
// much memory lies behind a buffer, since the interface does not tell.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "arrow/c_data.h"
#include "arrow/type.h"

namespace mlpbank {

// Some consecutive values of a column: those from `offset` on in an array.
struct ArrowChunk {
  const ArrowArray* array;
  int64_t offset;
  int64_t length;
  int64_t begin;  // the row of the column where it begins

  // The bitmap of values that are there, null: all are.
  const uint8_t* validity() const {
    const bool full = array->null_count == 0 || array->n_buffers == 0;
    return full ? nullptr : static_cast<const uint8_t*>(array->buffers[0]);
  }
};

// One bit of a bitmap, the lowest first in each byte.
inline bool bit_at(const uint8_t* bitmap, int64_t i) {
  return (bitmap[i >> 3] >> (i & 7) & 1) != 0;
}

// A column whose arrays were checked.
struct ArrowColumn {
  ArrowType type;
  std::vector<ArrowChunk> chunks;
  int64_t length = 0;
  std::shared_ptr<const void> owner;  // keeps the arrays alive
};

// Checks one array of a type against it, and its dictionary: values [offset, offset + length).
// Throws std::invalid_argument.
void check_array(const ArrowArray& array, const ArrowType& type);

// A schema and arrays of it: record batches of columns, or chunks of one column.
class ArrowTable {
 public:
  using Schema = ArrowOwned<ArrowSchema>;

  // Moves `batch`. Throws std::invalid_argument for what is no array of that schema.
  static std::shared_ptr<const ArrowTable> of(std::shared_ptr<const Schema> schema,
                                              std::vector<ArrowOwned<ArrowArray>> batches);

  // Whether it has columns, with names, or is one.
  bool has_columns() const { return has_columns_; }
  const std::vector<std::string>& names() const { return names_; }
  int64_t num_rows() const { return num_rows_; }

 private:
  friend ArrowColumn column_of(std::shared_ptr<const ArrowTable> table, std::size_t i);

  std::shared_ptr<const Schema> schema_;
  std::vector<ArrowOwned<ArrowArray>> batches_;
  std::vector<std::string> names_;
  bool has_columns_ = false;
  int64_t num_rows_ = 0;
};

// Column i of a table, or the column that it is. Throws std::invalid_argument where its arrays are
// wrong; a column of kind `other` is not looked at.
ArrowColumn column_of(std::shared_ptr<const ArrowTable> table, std::size_t i);

// Record batches that come one after the other.
class ArrowStream {
 public:
  // Moves `stream`. Throws std::invalid_argument with the producer's message if it fails.
  explicit ArrowStream(ArrowArrayStream& stream);

  // The next batch as a table, null at the end. Errors as above; after one the stream has ended.
  std::shared_ptr<const ArrowTable> next();
  // All that is left as one table. `between` runs after each batch, and may throw.
  std::shared_ptr<const ArrowTable> rest(const std::function<void()>& between = [] {});

 private:
  bool take(ArrowOwned<ArrowArray>& batch);
  [[noreturn]] void fail(int code);

  ArrowOwned<ArrowArrayStream> stream_;
  std::shared_ptr<ArrowTable::Schema> schema_;
  bool ended_ = false;
};

}  // namespace mlpbank
