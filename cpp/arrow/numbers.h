// Columns of numbers, of Arrow or anybody's arrays, and the rows of models that are made of them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "arrow/table.h"

namespace mlpbank {

// A column of numbers: of its type, value i of a chunk lies `stride` bytes after value i - 1.
struct NumberColumn {
  struct Chunk {
    int64_t begin, length;
    const char* values;  // of booleans, the bitmap
    const uint8_t* validity;
    int64_t offset;  // of the first value in bitmaps
  };

  ArrowType::Kind kind = ArrowType::Kind::null;
  int bits = 0;   // of decimals
  int scale = 0;  // of decimals
  int64_t stride = 0;
  std::vector<Chunk> chunks;
  int64_t length = 0;
  std::shared_ptr<const void> owner;  // keeps the memory alive; may be null

  // A column whose type is numeric.
  static NumberColumn of(const ArrowColumn& column);
};

// to[r * columns + c] = value r of column c minus shift[c], computed in float64 and rounded once;
// NaN where there is none. float32 is copied as it is if there is no shift, which may be null. Row
// r goes to row positions[r] of `to`, where these are given. All columns have `rows` values. Number
// is float or double.
template <class Number>
void columns_to_rows(const std::vector<NumberColumn>& columns, int64_t rows, const double* shift,
                     const uint32_t* positions, int threads, Number* to);

// Whether the columns are those of a float32 matrix with row after row, which then needs no copy.
bool are_rows(const std::vector<NumberColumn>& columns);

}  // namespace mlpbank
