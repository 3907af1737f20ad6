// What the x86 instruction sets share: four floats at a time.
#pragma once

#include <immintrin.h>

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {

// The first N of four floats, 2 to 4; in the register those behind them are 0.
template <int N>
inline __m128 load_quad(const float* p) {
  if constexpr (N == 4) return _mm_loadu_ps(p);
  const __m128 two = _mm_loadl_pi(_mm_setzero_ps(), reinterpret_cast<const __m64*>(p));
  return N == 2 ? two : _mm_movelh_ps(two, _mm_load_ss(p + 2));
}
template <int N>
inline void store_quad(float* p, __m128 quad) {
  if constexpr (N == 4) return _mm_storeu_ps(p, quad);
  _mm_storel_pi(reinterpret_cast<__m64*>(p), quad);
  if (N == 3) _mm_store_ss(p + 2, _mm_movehl_ps(quad, quad));
}

}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
