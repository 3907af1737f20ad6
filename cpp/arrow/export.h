// Results that are given to others through the Arrow C data interface.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "arrow/c_data.h"

namespace mlpbank {

// float32 columns of one length, one after the other in memory that `owner` keeps alive.
struct FloatColumns {
  std::vector<std::string> names;
  const float* values;
  int64_t length;
  std::shared_ptr<const void> owner;

  // Whether consumers get one column: of a single name, not a struct of columns.
  bool is_one() const { return names.size() == 1; }
};

// Each fills a struct that the caller then owns. Throws std::bad_alloc, and has then filled none.
void export_schema(const FloatColumns& columns, ArrowSchema& schema);
void export_array(const FloatColumns& columns, ArrowArray& array);
// A stream of one batch, the array.
void export_stream(const FloatColumns& columns, ArrowArrayStream& stream);

}  // namespace mlpbank
