// What an x86-64 CPU and its operating system can run.
//
// The CPU itself is asked. __builtin_cpu_supports knows no f16c in Clang before 19, and with
// ziglang's runtime it knows nothing at all.
#pragma once

#include <cpuid.h>

#include <cstdint>

namespace mlpbank {

struct CpuFeatures {
  bool carryless_multiplication = false;
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, DQ, BW and VL, with FMA
};

// The registers that the operating system saves: bits of XCR0.
inline uint64_t saved_registers() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

inline CpuFeatures read_cpu_features() {
  CpuFeatures features;
  unsigned eax, ebx, ecx, edx;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return features;
  features.carryless_multiplication = (ecx & bit_PCLMUL) != 0;
  const bool has_fma = (ecx & bit_FMA) != 0, has_f16c = (ecx & bit_F16C) != 0;
  if ((ecx & bit_OSXSAVE) == 0 || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) {
    return features;
  }
  constexpr uint64_t kAvx = 0x06;
#if defined(__APPLE__)
  constexpr uint64_t kAvx512 = kAvx;  // macOS saves the others from their first use on
#else
  constexpr uint64_t kAvx512 = 0xe6;
#endif
  constexpr unsigned kBits512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
  const uint64_t saved = saved_registers();
  features.avx2 = (saved & kAvx) == kAvx && (ebx & bit_AVX2) != 0 && has_fma && has_f16c;
  features.avx512 = (saved & kAvx512) == kAvx512 && (ebx & kBits512) == kBits512 && has_fma;
  return features;
}

// Read once: in a virtual machine the question may take many microseconds.
inline const CpuFeatures& cpu_features() {
  static const CpuFeatures features = read_cpu_features();
  return features;
}

}  // namespace mlpbank
