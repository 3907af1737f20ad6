// From columns to rows, a few rows of all columns at a time, so that what is written stays in L1.
#include "arrow/numbers.h"

#if defined(__x86_64__)
#  include <xmmintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/float_mode.h"
#include "engine/threads.h"
#include "types.h"
#include "weights/codec.h"

namespace mlpbank {
namespace {

using Kind = ArrowType::Kind;
using Chunk = NumberColumn::Chunk;

// What is written at a time. A block of rows is read from each column before the next column.
constexpr int64_t kBlockBytes = 16384;
constexpr int64_t kLeastRows = 1, kMostRows = 1024;
constexpr int64_t kLine = 64;  // bytes of a cache line
// So much is written past the caches, which would have to read what is overwritten.
constexpr int64_t kLeastStreamed = 1 << 22;
// Roughly what a value takes, to tell whether sharing pays.
constexpr double kNanosecondsPerValue = 0.5;

// A value in memory, which need not be aligned.
template <class T>
T load(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
T number(T value) {
  return value;
}
float number(Half value) { return decode(value); }

// A number of `words` times 64 bits in two's complement, the lowest first. Exact below 2^53.
double wide_integer(const char* from, int words) {
  uint64_t parts[4];
  std::memcpy(parts, from, static_cast<std::size_t>(words) * sizeof parts[0]);
  const bool negative = parts[words - 1] >> 63 != 0;
  uint64_t carry = negative ? 1 : 0;
  for (int i = 0; negative && i < words; ++i) {
    parts[i] = ~parts[i] + carry;
    carry = carry != 0 && parts[i] == 0 ? 1 : 0;
  }
  double sum = 0;
  for (int i = words; i-- > 0;) sum = sum * 0x1p64 + static_cast<double>(parts[i]);
  return negative ? -sum : sum;
}

// The digits of a decimal, as if it had no point.
double digits(const char* from, int bits) {
  if (bits == 32) return load<int32_t>(from);
  if (bits == 64) return static_cast<double>(load<int64_t>(from));
  return wide_integer(from, bits / 64);
}

// Writes `count` values, `step` floats from each other.
template <class Number, class Read>
void write(int64_t count, const double* shift, Number* to, int64_t step, Read read) {
  if (shift == nullptr) {  // integers of 64 bits are not rounded to float64 first
    for (int64_t i = 0; i < count; ++i) to[i * step] = static_cast<Number>(read(i));
    return;
  }
  const double subtracted = *shift;
  for (int64_t i = 0; i < count; ++i)
    to[i * step] = static_cast<Number>(static_cast<double>(read(i)) - subtracted);
}

template <class T, class Number>
void write_numbers(const char* from, int64_t stride, int64_t count, const double* shift, Number* to,
                   int64_t step) {
  // A stride that the compiler knows is twice as fast.
  if (stride == static_cast<int64_t>(sizeof(T))) {
    write(count, shift, to, step,
          [=](int64_t i) { return number(load<T>(from + i * static_cast<int64_t>(sizeof(T)))); });
  } else {
    write(count, shift, to, step, [=](int64_t i) { return number(load<T>(from + i * stride)); });
  }
}

// Values [first, first + count) of a chunk.
template <class Number>
void write_chunk(const NumberColumn& column, const Chunk& chunk, int64_t first, int64_t count,
                 const double* shift, Number* to, int64_t step) {
  constexpr Number kNan = std::numeric_limits<Number>::quiet_NaN();
  const int64_t stride = column.stride;
  const char* const from = chunk.values + first * stride;
  switch (column.kind) {
    case Kind::boolean: {
      const auto* const bits = reinterpret_cast<const uint8_t*>(chunk.values);
      const int64_t bit = chunk.offset + first;
      write(count, shift, to, step, [=](int64_t i) { return bit_at(bits, bit + i) ? 1.0 : 0.0; });
      break;
    }
    case Kind::byte_boolean:
      write(count, shift, to, step, [=](int64_t i) { return from[i * stride] != 0 ? 1.0 : 0.0; });
      break;
    case Kind::int8:
      write_numbers<int8_t>(from, stride, count, shift, to, step);
      break;
    case Kind::int16:
      write_numbers<int16_t>(from, stride, count, shift, to, step);
      break;
    case Kind::int32:
      write_numbers<int32_t>(from, stride, count, shift, to, step);
      break;
    case Kind::int64:
      write_numbers<int64_t>(from, stride, count, shift, to, step);
      break;
    case Kind::uint8:
      write_numbers<uint8_t>(from, stride, count, shift, to, step);
      break;
    case Kind::uint16:
      write_numbers<uint16_t>(from, stride, count, shift, to, step);
      break;
    case Kind::uint32:
      write_numbers<uint32_t>(from, stride, count, shift, to, step);
      break;
    case Kind::uint64:
      write_numbers<uint64_t>(from, stride, count, shift, to, step);
      break;
    case Kind::float16:
      write_numbers<Half>(from, stride, count, shift, to, step);
      break;
    case Kind::float32:
      write_numbers<float>(from, stride, count, shift, to, step);
      break;
    case Kind::float64:
      write_numbers<double>(from, stride, count, shift, to, step);
      break;
    case Kind::decimal: {
      const double power = std::pow(10.0, std::abs(column.scale));  // exact up to 10^22
      write(count, shift, to, step, [&, from, power](int64_t i) {
        const double value = digits(from + i * stride, column.bits);
        return column.scale >= 0 ? value / power : value * power;
      });
      break;
    }
    default:  // null
      for (int64_t i = 0; i < count; ++i) to[i * step] = kNan;
  }
  if (chunk.validity == nullptr) return;
  const int64_t bit = chunk.offset + first;
  for (int64_t i = 0; i < count; ++i) {
    if (!bit_at(chunk.validity, bit + i)) to[i * step] = kNan;
  }
}

// Rows [begin, end) of a column.
template <class Number>
void write_rows(const NumberColumn& column, int64_t begin, int64_t end, const double* shift,
                Number* to, int64_t step) {
  auto chunk = std::upper_bound(column.chunks.begin(), column.chunks.end(), begin,
                                [](int64_t row, const Chunk& other) { return row < other.begin; });
  --chunk;  // chunks are not empty and the first one begins at 0
  for (int64_t row = begin; row < end; ++chunk) {
    const int64_t first = row - chunk->begin;
    const int64_t count = std::min(end - row, chunk->length - first);
    write_chunk(column, *chunk, first, count, shift, to + (row - begin) * step, step);
    row += count;
  }
}

// Copies a row that, if it `streams`, consists of whole cache lines.
void copy_row(const void* from, int64_t bytes, bool streams, void* to) {
#if defined(__x86_64__)
  if (streams) {
    const auto* const source = static_cast<const float*>(from);
    auto* const target = static_cast<float*>(to);
    for (int64_t i = 0; i < bytes / 4; i += 4) _mm_stream_ps(target + i, _mm_load_ps(source + i));
    return;
  }
#else
  (void)streams;
#endif
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

// Makes what was written past the caches visible to other threads.
void finish_streaming() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace

NumberColumn NumberColumn::of(const ArrowColumn& column) {
  NumberColumn numbers;
  numbers.kind = column.type.kind;
  numbers.bits = column.type.bits;
  numbers.scale = column.type.scale;
  const bool has_stride = numbers.kind != Kind::boolean && numbers.kind != Kind::null;
  numbers.stride = has_stride ? size_of(column.type) : 0;
  numbers.length = column.length;
  numbers.owner = column.owner;
  for (const ArrowChunk& chunk : column.chunks) {
    const char* values = nullptr;
    if (numbers.kind != Kind::null)
      values = static_cast<const char*>(chunk.array->buffers[1]) + chunk.offset * numbers.stride;
    numbers.chunks.push_back({chunk.begin, chunk.length, values, chunk.validity(), chunk.offset});
  }
  return numbers;
}

template <class Number>
void columns_to_rows(const std::vector<NumberColumn>& columns, int64_t rows, const double* shift,
                     const uint32_t* positions, int threads, Number* to) {
  const auto count = static_cast<int64_t>(columns.size());
  if (count == 0 || rows == 0) return;
  const int64_t row_bytes = count * static_cast<int64_t>(sizeof(Number));
  const int64_t block = std::clamp(kBlockBytes / row_bytes, kLeastRows, kMostRows);
  const int64_t blocks = (rows + block - 1) / block;
  const bool in_lines = row_bytes % kLine == 0 && reinterpret_cast<uintptr_t>(to) % kLine == 0;
  const bool streams = in_lines && rows * row_bytes >= kLeastStreamed;
  const double nanoseconds = kNanosecondsPerValue * static_cast<double>(count * rows);
  const int64_t chunk = std::clamp<int64_t>(blocks / 64, 1, 64);
  parallel_for(threads, {blocks, chunk, nanoseconds}, [&](int64_t first, int64_t last) {
    const DefaultFloatMode mode;
    alignas(kLine) Number staging[kBlockBytes / sizeof(Number)];
    // A row that is larger than the staging is a block of its own.
    const bool staged = row_bytes <= kBlockBytes && (streams || positions != nullptr);
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i * block, end = std::min(rows, begin + block);
      const int64_t target = positions == nullptr ? begin : positions[begin];
      Number* const block_rows = staged ? staging : to + target * count;
      for (int64_t c = 0; c < count; ++c) {
        write_rows(columns[static_cast<std::size_t>(c)], begin, end,
                   shift == nullptr ? nullptr : shift + c, block_rows + c, count);
      }
      for (int64_t r = begin; staged && r < end; ++r) {
        const int64_t position = positions == nullptr ? r : positions[r];
        copy_row(staging + (r - begin) * count, row_bytes, streams, to + position * count);
      }
    }
    if (streams) finish_streaming();
  });
}

template void columns_to_rows(const std::vector<NumberColumn>&, int64_t, const double*,
                              const uint32_t*, int, float*);
template void columns_to_rows(const std::vector<NumberColumn>&, int64_t, const double*,
                              const uint32_t*, int, double*);

bool are_rows(const std::vector<NumberColumn>& columns) {
  const auto width = static_cast<int64_t>(columns.size() * sizeof(float));
  const char* at = nullptr;
  for (const NumberColumn& column : columns) {
    if (column.kind != Kind::float32 || column.chunks.size() != 1) return false;
    const Chunk& chunk = column.chunks[0];
    if (at == nullptr) at = chunk.values;
    if (column.stride != width || chunk.validity != nullptr || chunk.values != at) return false;
    at += sizeof(float);
  }
  return at != nullptr && reinterpret_cast<uintptr_t>(at) % alignof(float) == 0;
}

}  // namespace mlpbank
