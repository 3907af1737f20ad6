// What an x86-64 CPU has, and whether the operating system saves its registers.
//
// __builtin_cpu_supports asks the compiler's run-time library, and that of some compilers (Zig's)
// answers no to everything.
#pragma once

#if defined(__x86_64__)

#  include <cpuid.h>

namespace mlpbank {

struct X86Features {
  bool avx2_fma_f16c = false;
  bool avx512_f_dq_bw_vl = false;
};

inline X86Features x86_features() {
  X86Features features;
  unsigned eax, ebx, ecx, edx;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0) return features;
  const bool has_fma_f16c = (ecx & bit_FMA) != 0 && (ecx & bit_F16C) != 0;
  unsigned saved, upper;  // register XCR0
  __asm__("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
  constexpr unsigned kYmm = 0x6;   // the state of SSE and AVX
  constexpr unsigned kZmm = 0xe6;  // and masks, upper halves of zmm0 to 15, zmm16 to 31
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || !has_fma_f16c) return features;
  features.avx2_fma_f16c = (ebx & bit_AVX2) != 0 && (saved & kYmm) == kYmm;
  constexpr unsigned kAvx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
  features.avx512_f_dq_bw_vl = (ebx & kAvx512) == kAvx512 && (saved & kZmm) == kZmm;
  return features;
}

}  // namespace mlpbank

#endif
