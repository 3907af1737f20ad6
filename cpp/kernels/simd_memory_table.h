// Tables in memory, for instruction sets whose registers cannot hold them.
#pragma once

#include <stdint.h>

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

struct Powers {
  alignas(32) uint32_t word[8];

  constexpr explicit Powers(const uint32_t (&float_bits)[8]) : word() {
    // power shifts the index to the exponent's place and adds it. The three low bits add j << 20.
    for (uint32_t j = 0; j < 8; ++j) word[j] = float_bits[j] - (j << 20);
  }
};

struct Table {
  alignas(64) uint32_t row[32][4];

  constexpr explicit Table(const uint32_t (&rows)[32][4]) : row() {
    for (int r = 0; r < 32; ++r) {
      for (int c = 0; c < 4; ++c) row[r][c] = rows[r][c];
    }
  }
};

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
