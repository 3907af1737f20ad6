// The CRC-32 of ISO-HDLC (gzip, PNG, zlib), which bank files and live folders have of their parts.
//
// It is here and not zlib's because each process that follows a live bank checks each block that
// changes: with carry-less multiplication that takes as long as reading the block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mlpbank {

// Of `size` bytes that follow those whose CRC-32 is `before`; 0: none do.
uint32_t crc32(const uint8_t* data, std::size_t size, uint32_t before = 0);
// The same, without the CPU's carry-less multiplication.
uint32_t crc32_by_tables(const uint8_t* data, std::size_t size, uint32_t before = 0);

}  // namespace mlpbank
