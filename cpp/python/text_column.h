// TextColumn: a NumPy array of text, read as UTF-8.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <cstring>
#include <string_view>

#if defined(__SSE2__)
#  include <emmintrin.h>
#endif

#include "bank/key_view.h"
#include "python/arrays.h"
#include "python/key_chunk.h"

namespace mlpbank {

inline uint32_t load_point(const char* from, int64_t i) {
  uint32_t point;
  std::memcpy(&point, from + 4 * i, 4);
  return point;
}

#if defined(__SSE2__)
// Eight code points to eight bytes, right if all are ASCII. Adds their bits to `all`.
inline void narrow_eight(const char* from, char* to, __m128i& all) {
  const auto* const points = reinterpret_cast<const __m128i*>(from);
  const __m128i low = _mm_loadu_si128(points), high = _mm_loadu_si128(points + 1);
  const __m128i words = _mm_packs_epi32(low, high);
  all = _mm_or_si128(all, _mm_or_si128(low, high));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}
#endif

// Writes code points of 32 bits as bytes, which is right if all are ASCII. Returns all their bits.
inline uint32_t narrow_points(const char* from, int64_t count, char* to) {
  uint32_t all = 0;
  int64_t i = 0;
#if defined(__SSE2__)  // GCC 12 does not find these instructions by itself
  constexpr int64_t kMany = 8;
  if (count >= kMany) {
    __m128i bits = _mm_setzero_si128();
    for (; i + kMany <= count; i += kMany) narrow_eight(from + 4 * i, to + i, bits);
    if (i < count) narrow_eight(from + 4 * (count - kMany), to + count - kMany, bits);
    uint32_t four[4];
    std::memcpy(four, &bits, sizeof four);
    return four[0] | four[1] | four[2] | four[3];
  }
#endif
  for (; i < count; ++i) {
    const uint32_t point = load_point(from, i);
    all |= point;
    to[i] = static_cast<char>(point);
  }
  return all;
}

// A NumPy array of text (dtype U): `width` code points each, filled up with zeros.
class TextColumn {
 public:
  explicit TextColumn(const py::array& array)
      : data_(static_cast<const char*>(array.data())),
        size_(array.size()),
        stride_(array.ndim() == 1 ? array.strides(0) : 0),
        width_(array.itemsize() / 4) {
    expect(array.ndim() == 1 && array.dtype().kind() == 'U' && array.dtype().byteorder() != '>',
           "keys: expected one dimension of text");
  }
  int64_t size() const { return size_; }

  // Reads keys as UTF-8. Surrogates are in no key.
  void read(int64_t begin, int64_t count, KeyChunk& chunk) const {
    chunk.clear();
    // UTF-8 takes no more bytes than code points of 32 bits.
    char* to = chunk.room(static_cast<std::size_t>(4 * width_ * count));
    for (int64_t i = begin; i < begin + count; ++i) {
      const char* const text = to;
      const bool is_text = encode(data_ + i * stride_, to);
      const auto size = static_cast<std::size_t>(to - text);
      chunk.add(is_text ? KeyView::of(std::string_view(text, size)) : kNoKey);
    }
  }

 private:
  // Writes one text and moves `to` to its end. False: it has what is no character.
  bool encode(const char* from, char*& to) const {
    const uint32_t all = narrow_points(from, width_, to);
    int64_t size = width_;
    while (size > 0 && load_point(from, size - 1) == 0) --size;
    if (all < 0x80) {
      to += size;
      return true;
    }
    bool is_text = true;
    for (int64_t i = 0; i < size; ++i) is_text = append(load_point(from, i), to) && is_text;
    return is_text;
  }
  static bool append(uint32_t point, char*& to) {
    const auto put = [&](uint32_t byte) { *to++ = static_cast<char>(byte); };
    const auto last = [&](int shift) { put(0x80 | (point >> shift & 0x3f)); };
    if (point < 0x80) {
      put(point);
    } else if (point < 0x800) {
      put(0xc0 | point >> 6);
      last(0);
    } else if (point < 0x10000) {
      put(0xe0 | point >> 12);
      last(6);
      last(0);
    } else {
      put(0xf0 | (point >> 18 & 0x7));
      last(12);
      last(6);
      last(0);
    }
    return point < 0x110000 && (point < 0xd800 || point >= 0xe000);
  }

  const char* data_;
  int64_t size_;
  int64_t stride_;
  int64_t width_;
};

}  // namespace mlpbank
