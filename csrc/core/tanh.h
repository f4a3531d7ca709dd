// SPDX-License-Identifier: Apache-2.0
// The hyperbolic tangent with the same bits on every backend, for grids whose levels must agree everywhere.
#pragma once
#include "core/log.h"

#if defined(__x86_64__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace tk {

// x cut to [low, high]; NaN stays NaN. F is float or a vector of it. GCC 12 makes comparisons and blends of the general
// form.
template <class F>
TK_INLINE F cut_to(F x, F low, F high) {
#if defined(__x86_64__) && !defined(__CUDACC__)
#if defined(__AVX512F__)
  if constexpr (sizeof(F) == 64) {
    return (F)_mm512_maskz_min_ps(0xffff, (__m512)high, _mm512_maskz_max_ps(0xffff, (__m512)low, (__m512)x));
  }
#endif
#if defined(__AVX__)
  if constexpr (sizeof(F) == 32) return (F)_mm256_min_ps((__m256)high, _mm256_max_ps((__m256)low, (__m256)x));
#endif
  if constexpr (sizeof(F) == 16) return (F)_mm_min_ps((__m128)high, _mm_max_ps((__m128)low, (__m128)x));
#endif
  const F raised = x < low ? low : x;
  return raised > high ? high : raised;
}

// tanh x to a relative error of 4e-7 for any x, odd; NaN stays NaN. It may pass 1 by that error. F is float or a vector
// of it. With u = x^2: x P(u) / Q(u) of least relative error on [-9.02, 9.02], beyond which tanh is 1 in float32.
template <class F>
TK_INLINE F loose_tanh(F x) {
  const F zero{};
  const F inside = cut_to(x, -9.02f - zero, 9.02f - zero);
  const F u = lone_product(inside, inside);
  F p = lone_product(u, 1.33170275e-08f) + 2.0582063e-05f;
  p = lone_product(p, u) + 0.0034939523f;
  p = lone_product(p, u) + 0.13379651f;
  p = lone_product(p, u) + 1.0f;
  F q = lone_product(u, 7.7611975e-07f) + 0.00032829554f;
  q = lone_product(q, u) + 0.025870766f;
  q = lone_product(q, u) + 0.46712965f;
  q = lone_product(q, u) + 1.0f;
  return lone_product(inside, p) / q;
}

// The same, in [-1, 1].
template <class F>
TK_INLINE F tanh_of(F x) {
  const F zero{};
  return cut_to(loose_tanh(x), -1.0f - zero, 1.0f - zero);
}

}  // namespace tk
