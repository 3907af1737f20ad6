// Activations as quartics on 32 segments of |x|, without division: tanh, gelu, gelu_tanh and silu.
//
// A segment's coefficients are a row of a table. With AVX-512 the tables live in registers, where finding 16 rows takes
// four permutations. Multiply-adds keep both vector units busy before and after, so what counts is the number of
// operations: on 1000 x 32-64-64-1 with 32 rows each one per activation costs 1.6 % of relu's time. The figures of what
// else was tried for tanh, beside this one's +22 % (AVX2 +36 %):
//   expm1(2|x|) / (expm1(2|x|) + 2)                             +46 % (AVX2 +32 %)
//   rational functions of degree 7/6 to 9/8 with a division     +29 to +31 % (AVX2 +20 to +24 %): 10 cycles a division
//   their divisions in a loop of their own, or by halves        +31 to +42 %
//   coefficients gathered from memory                           AVX2 +90 %
//   lookups from 32 rows by permutations and blends             AVX2 +114 %
//   applied in the tile's registers                             1.5 % less, for a copy of the code in every tile
//   one word of a row used for two coefficients                 17 ULP and more, whichever and with whatever variable
//   cubics, in 11 or 12 operations                              +13 to +15 %, but errors of 7 to 20 ULP on any 32
//                                                               segments that an index of two operations can name
#pragma once

#include "kernels/simd.h"

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// Rows are c0, c1, c2 and a word that is c4 and, in its lower half, the upper half of c3. By tools/fit_piecewise.py:
// minimax by linear programming, and among near equals those that float32 arithmetic serves best. Measured errors are in
// docs/activations.md.
constexpr uint32_t kTanhRows[32][4] = {
    {0xbe17193c, 0x3f33a967, 0xbeb1de36, 0xbcbc3dfb}, {0xbe1db09d, 0x3f34c2a4, 0xbeb355ab, 0xbcca3dff},
    {0xbdcd3feb, 0x3f2b9787, 0xbea75424, 0xbca13de3}, {0x3b2fe8ff, 0x3f1a2012, 0xbe91648e, 0xbc633db7},
    {0x3e0f3752, 0x3f031102, 0xbe6c3b82, 0xbc133d88}, {0x3e8e9ad2, 0x3ed83256, 0xbe397a2f, 0xbbbc3d44},
    {0x3ecb05aa, 0x3eb1c5c3, 0xbe11b1cd, 0xbb793d0f}, {0x3f04098a, 0x3e8bb018, 0xbdd95553, 0xbb1b3cc5},
    {0x3f2c24d4, 0x3e3639ed, 0xbd8278b7, 0xba8f3c52}, {0x3f4f23e7, 0x3dca63d3, 0xbd0343ea, 0xb9d83bb9},
    {0x3f667838, 0x3d48493f, 0xbc6a8040, 0xb9123b11}, {0x3f70ee86, 0x3ce2a900, 0xbbf66305, 0xb87d3a8b},
    {0x3f792858, 0x3c424090, 0xbb3fd3e8, 0xb79b39c1}, {0x3f7c974c, 0x3bb85ee9, 0xbaa897ce, 0xb6e2391b},
    {0x3f7e66c9, 0x3b248124, 0xba0b74ed, 0xb61c386b}, {0x3f7f47ce, 0x3a8ce211, 0xb95df208, 0xb55137ac},
    {0x3f7fb42a, 0x39dc4c53, 0xb8a12fa1, 0xb48036e6}, {0x3f7fee2b, 0x38c007e6, 0xb77d2a73, 0xb31f35a1},
    {0x00000000, 0x00000000, 0x00000000, 0x00000000}, {0x00000000, 0x3e976c85, 0xbf6869dc, 0x3c62be8b},
    {0x350ffe3f, 0x3ed9d021, 0xbf22c124, 0x3d6ebda6}, {0x364ef23c, 0x3ef73820, 0xbf02538d, 0x3da63c47},
    {0x37c09960, 0x3f0dff3a, 0xbeaf8afa, 0x3dea3e10}, {0x39236380, 0x3f1f6a90, 0xbe30a9ea, 0x3e1e3e91},
    {0x39ac9222, 0x3f2399ff, 0xbe01948a, 0x3e2c3ea7}, {0x38ceb5a1, 0x3f22fc49, 0xbe0a844b, 0x3e283ea2},
    {0xbb1e5f4b, 0x3f20379b, 0xbe39bd2d, 0x3e0f3e86}, {0xbc29665c, 0x3f1eb64b, 0xbe6d45f9, 0x3dd33e49},
    {0xbce28085, 0x3f2000d3, 0xbe8b5e6e, 0x3d7e3e13}, {0xbd552b56, 0x3f239284, 0xbe986914, 0x3cf23df2},
    {0xbda95a9b, 0x3f28a086, 0xbea241a8, 0x3b973de3}, {0xbde5acc9, 0x3f2d9f32, 0xbea9ae31, 0xbc333de9},
};
constexpr uint32_t kGeluRows[32][4] = {
    {0x80000000, 0xbefffffe, 0x3ecc41ca, 0xbd883810}, {0x360aadd5, 0xbf0003b8, 0x3ecc8ef8, 0xbd79bb37},
    {0x39095075, 0xbf006f71, 0x3ed0a5a9, 0xbd3cbca7}, {0x3aaa3328, 0xbf02dcb4, 0x3edf87b4, 0xbccfbd77},
    {0x3bbc0f46, 0xbf09988e, 0x3efd8f4b, 0xbb65bdf3}, {0x3c83bb12, 0xbf15ef43, 0x3f1465d7, 0x3c81be3d},
    {0x3d07ddd2, 0xbf269dbe, 0x3f2c4c54, 0x3cf6be7a}, {0x3d406431, 0xbf320992, 0x3f3a2b45, 0x3d13be8c},
    {0x3d21438f, 0xbf2d0e3e, 0x3f356a6b, 0x3d0ebe88}, {0x3b844f76, 0xbf173069, 0x3f2194fe, 0x3cf6be70},
    {0xbde6148e, 0xbeacab8c, 0x3ed93492, 0x3ca2be23}, {0xbe65cb1a, 0xbdf0ac50, 0x3e86843e, 0x3c5bbdda},
    {0xbec66f99, 0x3e381fbe, 0x3d73a647, 0x3bd0bd37}, {0xbf0f7c0e, 0x3ef0ce00, 0xbdfd24ad, 0x3a803bd9},
    {0xbf2e70d9, 0x3f28de19, 0xbe7069ee, 0xbaf43d12}, {0xbf49c69a, 0x3f50e78f, 0xbea434e6, 0xbb783d68},
    {0xbf400533, 0x3f4448b3, 0xbe97fbfa, 0xbb5d3d53}, {0xbf38e47a, 0x3f3c6021, 0xbe918dbd, 0xbb543d4a},
    {0xbf17d2e2, 0x3f15ab49, 0xbe5f2967, 0xbb163d15}, {0xbeeadf7e, 0x3edf8377, 0xbe208035, 0xbac73cce},
    {0xbead9cb2, 0x3e9fb431, 0xbddd6998, 0xba7f3c89}, {0xbea06932, 0x3e92db2c, 0xbdcabd77, 0xba683c7a},
    {0xbe4a42e2, 0x3e31be75, 0xbd6b4e87, 0xb9f73c0b}, {0xbddb4d65, 0x3db740c6, 0xbce65641, 0xb9593b81},
    {0xbd8ea3fc, 0x3d6828e4, 0xbc8e16fe, 0xb8fe3b1b}, {0xbd16226a, 0x3cea943a, 0xbc09b7e7, 0xb8623a90},
    {0xbcac145b, 0x3c828793, 0xbb94c8e4, 0xb7e63a17}, {0xbc43b77c, 0x3c106a0f, 0xbb2018d3, 0xb76a399e},
    {0xbbab4e0d, 0x3b7336bc, 0xba81a5bf, 0xb6af38f6}, {0xbb22481e, 0x3adf9da5, 0xb9e75bf9, 0xb6133855},
    {0xba8c862a, 0x3a3b60ac, 0xb93b8d12, 0xb55f37a7}, {0x00000000, 0x00000000, 0x00000000, 0x00000000},
};
constexpr uint32_t kGeluTanhRows[32][4] = {
    {0x80000000, 0xbefffff8, 0x3ecc4043, 0xbd8b3980}, {0x3618dacf, 0xbf000415, 0x3ecc95d8, 0xbd79bb45},
    {0x38f55ab7, 0xbf0065e3, 0x3ed05db4, 0xbd3fbca0}, {0x3aae64b7, 0xbf02ed66, 0x3edff0ae, 0xbccbbd7c},
    {0x3bbdbc99, 0xbf09b0a4, 0x3efe18c9, 0xbb3fbdf6}, {0x3c8c294c, 0xbf17131c, 0x3f164c3b, 0x3c8fbe43},
    {0x3d02e3e4, 0xbf257b97, 0x3f2acfc9, 0x3cf2be77}, {0x3d327be8, 0xbf2f5413, 0x3f370982, 0x3d0fbe89},
    {0x3d134463, 0xbf2a5686, 0x3f3247cd, 0x3d0abe85}, {0xba63e08d, 0xbf139c37, 0x3f1dbccd, 0x3cedbe69},
    {0xbde0f926, 0xbeae574d, 0x3ed93bf2, 0x3ca0be22}, {0xbe5c3efd, 0xbe09abf6, 0x3e8bcb63, 0x3c5ebddf},
    {0xbec9381f, 0x3e405316, 0x3d5d6901, 0x3bc7bd2f}, {0xbf0a504e, 0x3ede2121, 0xbdccfb09, 0x3ad33956},
    {0xbf2b6992, 0x3f22e550, 0xbe60421a, 0xbabb3d00}, {0xbf3c079d, 0x3f3c28f0, 0xbe8cde7d, 0xbb353d3a},
    {0xbf3e0c70, 0x3f4087e7, 0xbe92f79d, 0xbb4c3d48}, {0xbf47cf46, 0x3f4dee28, 0xbea0b725, 0xbb6e3d61},
    {0xbf197293, 0x3f177e61, 0xbe619340, 0xbb163d16}, {0xbf09aa9d, 0x3f06a0ee, 0xbe46a835, 0xbb023d03},
    {0xbeaeb105, 0x3ea288e1, 0xbde38fc7, 0xba853c8e}, {0xbe8f6968, 0x3e83f510, 0xbdb6d577, 0xba523c62},
    {0xbe28fd02, 0x3e154f91, 0xbd466d6b, 0xb9d13beb}, {0xbdd9fbdc, 0x3dbb39e8, 0xbcf1bc7d, 0xb9703b8b},
    {0xbd4d60ac, 0x3d29426d, 0xbc5192aa, 0xb8bf3ae7}, {0xbccdbd38, 0x3ca4341c, 0xbbc4d680, 0xb8283a52},
    {0xbc2be752, 0x3c0440ff, 0xbb18c4f4, 0xb772399d}, {0xbb899a92, 0x3b4cfc80, 0xba653633, 0xb6aa38e4},
    {0xbacffbbb, 0x3a9633fa, 0xb9a2d33a, 0xb5e3381d}, {0xba023f3e, 0x39b5afd0, 0xb8be2a8f, 0xb4f73731},
    {0xb91a82ca, 0x38d0dbdd, 0xb7d3d009, 0xb401363f}, {0x00000000, 0x00000000, 0x00000000, 0x00000000},
};
constexpr uint32_t kSiluRows[32][4] = {
    {0x39f01111, 0xbf00edbb, 0x3e85be50, 0xbc2cbc87}, {0x3b2e6cd0, 0xbf03e2be, 0x3e916d6c, 0xbb7bbd16},
    {0x3c0b40b7, 0xbf09d4f1, 0x3ea339b1, 0x3b01bd75}, {0x3c90f616, 0xbf11694c, 0x3eb58fa4, 0x3bc0bda2},
    {0x3cb9fdc4, 0xbf15323c, 0x3ebdd9c9, 0x3beebdb2}, {0x3cfa5074, 0xbf1a28ef, 0x3ec703e0, 0x3c09bdc1},
    {0x3cb20236, 0xbf15a66d, 0x3ec04298, 0x3c00bdb8}, {0xbce1684c, 0xbeff1f77, 0x3ea334f6, 0x3bc5bd96},
    {0xbdd04a46, 0xbec4b681, 0x3e8188a4, 0x3b90bd67}, {0xbe927ddb, 0xbe0d986c, 0x3e04edd9, 0x3b0abced},
    {0xbef7dc1a, 0x3db4ec65, 0x3d04ddd6, 0x3a4cbc29}, {0xbf2600d7, 0x3e81a460, 0xbcf2b4db, 0x390638a2},
    {0xbf3e5a11, 0x3ead8216, 0xbd6febe1, 0xb8f53b91}, {0xbf4a0b98, 0x3ec0df04, 0xbd8ffe57, 0xb9523bc6},
    {0xbf49ff04, 0x3ec1218a, 0xbd90a58c, 0xb9563bc8}, {0xbf2ca121, 0x3e9b0feb, 0xbd574240, 0xb9033b88},
    {0xbf232634, 0x3e90c0c8, 0xbd46bbf2, 0xb8ef3b79}, {0xbee714e9, 0x3e3ba4c3, 0xbce9d011, 0xb8633b04},
    {0xbe9c3a69, 0x3dea07f2, 0xbc85c986, 0xb7d83a8a}, {0xbe402591, 0x3d84785b, 0xbc0ae5ee, 0xb73b3a03},
    {0xbddec1ec, 0x3d0dc2d6, 0xbb88d1eb, 0xb69b396d}, {0xbd5d9359, 0x3c80c656, 0xbae25322, 0xb5d338b2},
    {0xbcf39260, 0x3c04860b, 0xba59c88a, 0xb5313820}, {0xbc8f3703, 0x3b94034a, 0xb9e6e90f, 0xb4a937a1},
    {0xbbe4cab3, 0x3ad9099f, 0xb91b2684, 0xb3be36c6}, {0xbada2655, 0x39b8cf09, 0xb7ebadbb, 0xb2653586},
    {0xb9d9629f, 0x38a79f68, 0xb6c26fb3, 0xb11c3449}, {0x00000000, 0x00000000, 0x00000000, 0x00000000},
    {0x80000000, 0xbefffffe, 0x3e7fff48, 0xbcab37fc}, {0xb4f761dc, 0xbefffed8, 0x3e7ff257, 0xbca83864},
    {0x3707b935, 0xbf000811, 0x3e806132, 0xbc94bb0d}, {0x3864577d, 0xbf002897, 0x3e816943, 0xbc7fbbbf},
};

// c0 + a (c1 + v (c2 + v (c3 + v c4)))
inline Vec quartic(const Row& row, Vec a, Vec v) {
  Vec p = fma_once(row.word[3], v, int_shift_left<16>(row.word[3]));
  p = fma_once(p, v, row.word[2]);
  p = fma_once(p, v, row.word[1]);
  return fma_once(p, a, row.word[0]);
}

// Segments that grow with |x|: three bits of the mantissa and two of the exponent of a + offset.
inline Vec log_segment(Vec a, float offset) { return int_shift_right<20>(add(a, broadcast(offset))); }
// Segments of equal width: adding 1.5 * 2^23 leaves the rounded number in the lowest bits.
inline Vec linear_segment(Vec a, float per_unit) { return fma(a, broadcast(per_unit), broadcast(12582912.0f)); }

// From |x| = 9.02 on the result is 1 in magnitude. Powers of a - 1.5 instead of a keep what cancels small where a is
// between 1 and 3: 2 ULP instead of 4.2, for one operation more.
struct Tanh {
  static constexpr Table table = Table(kTanhRows);
  static Vec clamped(Vec x) { return min_keep_nan(broadcast(9.02f), bit_and(x, float_bits(0x7fffffff))); }
  static Vec segment(Vec x) { return log_segment(clamped(x), 0.7f); }
  static Vec value(const Row& row, Vec x) {
    const Vec a = clamped(x);
    return copy_sign(quartic(row, a, sub(a, broadcast(1.5f))), x);
  }
};

// gelu(x) = x Phi(x), Phi the normal distribution. What it lacks to max(0, x) is the same for x and -x and vanishes:
// x Phi(x) = max(0, x) - |x| Phi(-|x|). So NaN and infinity need no care beyond the maximum's. From 31 / 5.25 on
// the row is zero.
struct Gelu {
  static constexpr Table table = Table(kGeluRows);
  static Vec clamped(Vec x) { return min_magnitude(broadcast(31 / 5.25f), x); }
  static Vec segment(Vec x) { return linear_segment(clamped(x), 5.25f); }
  static Vec value(const Row& row, Vec x) {
    const Vec a = clamped(x);
    return add(max_keep_nan(broadcast(0.0f), x), quartic(row, a, a));
  }
};

// The same with (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 for Phi.
struct GeluTanh : Gelu {
  static constexpr Table table = Table(kGeluTanhRows);
};

// x / (1 + exp(-x)) = max(0, x) - |x| / (1 + exp(|x|)), zero from 20.5 on.
struct Silu {
  static constexpr Table table = Table(kSiluRows);
  static Vec clamped(Vec x) { return min_magnitude(broadcast(20.5f), x); }
  static Vec segment(Vec x) { return log_segment(clamped(x), 1.5f); }
  static Vec value(const Row& row, Vec x) {
    const Vec a = clamped(x);
    return add(max_keep_nan(broadcast(0.0f), x), quartic(row, a, a));
  }
};

// In place over n values, n a multiple of kLanes.
template <class Piecewise>
inline void apply_piecewise(float* values, int64_t n) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec x = load(values + i);
    store(values + i, Piecewise::value(lookup(Piecewise::table, Piecewise::segment(x)), x));
  }
#else
  // First all indices, then all rows: one at a time, each vector waits for its index to come back from memory (AVX2:
  // +57 % of relu's time against +34 %; blocks of 8 or 32 vectors +36 %).
  constexpr int64_t kBlock = 16;
  Index index[kBlock];
  for (; n > 0; n -= kBlock * kLanes, values += kBlock * kLanes) {
    const int64_t count = n < kBlock * kLanes ? n / kLanes : kBlock;
    for (int64_t i = 0; i < count; ++i) keep(index[i], Piecewise::segment(load(values + i * kLanes)));
    for (int64_t i = 0; i < count; ++i) {
      const Row row = lookup(Piecewise::table, index[i]);
      store(values + i * kLanes, Piecewise::value(row, load(values + i * kLanes)));
    }
  }
#endif
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
