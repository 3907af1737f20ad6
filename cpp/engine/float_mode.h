// The floating-point mode in which results are computed, independent of the caller's mode.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#  include <xmmintrin.h>
#elif !defined(__aarch64__)
#  include <cfenv>
#endif

namespace mlpbank {

// For its lifetime the calling thread rounds to nearest, keeps subnormal numbers and traps no
// exceptions. Then its own mode and exception flags are restored. Libraries set other modes for
// single threads (torch.set_flush_denormal); without this class, results would depend on the thread
// that computes them.
class DefaultFloatMode {
 public:
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

#if defined(__x86_64__)
  DefaultFloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(kProcessStart); }
  ~DefaultFloatMode() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kProcessStart = 0x1f80;  // the mode that a process starts with
  unsigned saved_;
#elif defined(__aarch64__)
  DefaultFloatMode() {
    asm volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control_), "=r"(status_));
    asm volatile("msr fpcr, %0" ::"r"(uint64_t{0}));
  }
  ~DefaultFloatMode() {
    asm volatile("msr fpcr, %0\n\tmsr fpsr, %1" ::"r"(control_), "r"(status_));
  }

 private:
  uint64_t control_, status_;
#else
  DefaultFloatMode() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatMode() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
#endif
};

}  // namespace mlpbank
