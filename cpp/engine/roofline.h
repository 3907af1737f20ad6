// The two limits of a machine that a forward can reach: the bandwidth of reading memory, and the
// rate of multiply-adds.
#pragma once

#include <cstdint>
#include <string>

namespace mlpbank {

// GB/s at which `num_threads` threads (0: the CPU budget) read a buffer of `nbytes`, held as
// weights are held. Several ways of reading are timed in turn, `repeats` times each; the median of
// the best is returned. The buffer is read over and over, so a small one shows the bandwidth of a
// cache. Throws std::invalid_argument for fewer than 64 bytes or less than one repeat, or
// std::bad_alloc.
double read_bandwidth(int64_t nbytes, int num_threads, int repeats);

// GFLOP/s of fused multiply-adds in registers, on `num_threads` threads together (0: the CPU
// budget): the median of a few runs of half a millisecond. `isa` as for choose_kernel.
double fma_peak(const std::string& isa, int num_threads);

}  // namespace mlpbank
