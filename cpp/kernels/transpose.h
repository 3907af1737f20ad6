// Transposing between rows, as users have them, and vector lanes, as tiles have them.
//
//     src (rows, cols)           dst (cols, rows)
//     a0 a1 a2 a3                a0 b0 c0 d0
//     b0 b1 b2 b3      <->       a1 b1 c1 d1       4 x 4 at a time, kLanes rows together
//     c0 c1 c2 c3                a2 b2 c2 d2
//     d0 d1 d2 d3                a3 b3 c3 d3
#pragma once

#include "kernels/simd.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// In every 16 bytes, the 4 x 4 floats of four vectors.
inline void transpose_quads(Vec (&v)[4]) {
  const Vec low01 = zip_low(v[0], v[1]), high01 = zip_high(v[0], v[1]);
  const Vec low23 = zip_low(v[2], v[3]), high23 = zip_high(v[2], v[3]);
  v[0] = zip_low_pairs(low01, low23);
  v[1] = zip_high_pairs(low01, low23);
  v[2] = zip_low_pairs(high01, high23);
  v[3] = zip_high_pairs(high01, high23);
}

// kLanes rows of N columns to N vectors.
template <int N>
inline void rows_to_lanes(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  Vec v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) v[i] = load_quads<N>(src + i * src_stride, 4 * src_stride);
  transpose_quads(v);
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) store(dst + i * dst_stride, v[i]);
}

// N vectors to kLanes rows of N columns.
template <int N>
inline void lanes_to_rows(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  Vec v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) v[i] = i < N ? load(src + i * src_stride) : broadcast(0.0f);
  transpose_quads(v);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) store_quads<N>(dst + i * dst_stride, 4 * dst_stride, v[i]);
}

// Calls visit(from) for steps of `size` that cover 0 to `count`. The last step overlaps the one
// before it, which is cheaper than going through the rest float by float.
template <class Visit>
inline void in_steps(int64_t count, int64_t size, Visit visit) {
  for (int64_t from = 0; from < count; from += size) {
    visit(from < count - size ? from : count - size);
  }
}

// A matrix of `rows` x N, kLanes rows at a time.
template <int N>
inline void columns_to_lanes(const float* src, int64_t src_stride, int64_t rows, float* dst,
                             int64_t dst_stride) {
  in_steps(rows, kLanes, [&](int64_t r) {
    rows_to_lanes<N>(src + r * src_stride, src_stride, dst + r, dst_stride);
  });
}

// A matrix of N x `cols`, kLanes columns at a time.
template <int N>
inline void lanes_to_columns(const float* src, int64_t src_stride, int64_t cols, float* dst,
                             int64_t dst_stride) {
  in_steps(cols, kLanes, [&](int64_t c) {
    lanes_to_rows<N>(src + c, src_stride, dst + c * dst_stride, dst_stride);
  });
}

// dst[c * dst_stride + r] = src[r * src_stride + c] for r < rows, c < cols. Inlined where a size is
// a constant.
__attribute__((always_inline)) inline void transpose_inline(const float* src, int64_t src_stride,
                                                            int64_t rows, int64_t cols, float* dst,
                                                            int64_t dst_stride) {
  if (rows >= kLanes && cols >= 4) {
    in_steps(cols, 4, [&](int64_t c) {
      columns_to_lanes<4>(src + c, src_stride, rows, dst + c * dst_stride, dst_stride);
    });
  } else if (rows >= kLanes && cols == 3) {
    columns_to_lanes<3>(src, src_stride, rows, dst, dst_stride);
  } else if (rows >= kLanes && cols == 2) {
    columns_to_lanes<2>(src, src_stride, rows, dst, dst_stride);
  } else if (cols >= kLanes && rows >= 4) {
    in_steps(rows, 4, [&](int64_t r) {
      lanes_to_columns<4>(src + r * src_stride, src_stride, cols, dst + r, dst_stride);
    });
  } else if (cols >= kLanes && rows == 3) {
    lanes_to_columns<3>(src, src_stride, cols, dst, dst_stride);
  } else if (cols >= kLanes && rows == 2) {
    lanes_to_columns<2>(src, src_stride, cols, dst, dst_stride);
  } else if (rows == 1 && dst_stride == 1) {
    memcpy(dst, src, sizeof(float) * cols);
  } else if (cols == 1 && src_stride == 1) {
    memcpy(dst, src, sizeof(float) * rows);
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) dst[c * dst_stride + r] = src[r * src_stride + c];
    }
  }
}

__attribute__((noinline)) void transpose(const float* src, int64_t src_stride, int64_t rows,
                                         int64_t cols, float* dst, int64_t dst_stride) {
  transpose_inline(src, src_stride, rows, cols, dst, dst_stride);
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
