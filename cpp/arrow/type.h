// ArrowType: what a column of the Arrow C data interface holds.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "arrow/c_data.h"

namespace mlpbank {

struct ArrowType {
  enum class Kind {
    null,
    boolean,
    byte_boolean,  // of a byte each
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
    float16,
    float32,
    float64,
    decimal,
    text,        // offsets of 32 bits
    large_text,  // of 64
    text_view,
    other,  // what is neither a number nor text
  };

  Kind kind = Kind::other;
  int bits = 0;   // of a decimal
  int scale = 0;  // digits after its point
  std::string name;
  // Of a dictionary-encoded column: what its dictionary holds. `kind` is that of the indices.
  std::shared_ptr<const ArrowType> values;

  // What `schema` says. A type that is not known, and one with a meaning of its own that only its
  // library knows (an extension), is of kind `other`. Throws std::invalid_argument for a schema
  // that is none.
  static ArrowType of(const ArrowSchema& schema);

  bool is_integer() const { return kind >= Kind::int8 && kind <= Kind::uint64; }
  bool is_float() const { return kind >= Kind::float16 && kind <= Kind::float64; }
  bool is_text() const { return kind >= Kind::text && kind <= Kind::text_view; }
  // Whether rows of models can be made of it.
  bool is_numeric() const { return kind <= Kind::decimal && values == nullptr; }
  // What it holds, whether by a dictionary or not.
  const ArrowType& plain() const { return values == nullptr ? *this : values->plain(); }
};

// Bytes of one value of a type that is not boolean, null, text or other.
int64_t size_of(const ArrowType& type);

}  // namespace mlpbank
