// SPDX-License-Identifier: Apache-2.0
// The exponential of scores, in base 2. Included by per-ISA files only.
#pragma once
#include "core/simd.h"

namespace tk {
namespace {

// 2^x to 2 ulp for x up to 126; 0 below -125, NaN stays NaN.
TK_INLINE vf exp2(vf x) {
#if defined(__AVX512F__)
  const vf n = (vf)_mm512_maskz_roundscale_ps(kAllLanes, (__m512)x, kNearest);
  const vf r = x - n;
#else
  // Adding and subtracting 1.5 * 2^23 rounds to an integer, and leaves it in the low bits.
  const vf floored = max(set(-126.0f), x);
  const vf shifted = floored + 12582912.0f;
  const vf r = floored - (shifted - 12582912.0f);
#endif
  vf p = set(1.326472066e-03f);
  p = fma(p, r, set(9.671513597e-03f));
  p = fma(p, r, set(5.550733770e-02f));
  p = fma(p, r, set(2.402224207e-01f));
  p = fma(p, r, set(6.931469776e-01f));
  p = fma(p, r, set(1.0f));
#if defined(__AVX512F__)
  const __mmask16 seen = _mm512_cmp_ps_mask((__m512)x, (__m512)set(-125.0f), _CMP_NLT_UQ);
  return (vf)_mm512_maskz_scalef_ps(seen, (__m512)p, (__m512)n);
#else
  const vf scaled = (vf)((vi)p + ((vi)shifted << 23));
  return select(x == x, select(x < -125.0f, zero(), scaled), x);
#endif
}

constexpr float kSmallestPower = -126.0f;

// The larger of x and kSmallestPower; NaN stays NaN.
TK_INLINE vf bound_power(vf x) {
#if defined(__AVX512F__)  // GCC 12 makes a comparison and a blend of max
  return (vf)_mm512_maskz_max_ps(kAllLanes, (__m512)set(kSmallestPower), (__m512)x);
#else
  return max(set(kSmallestPower), x);
#endif
}

// 2^x to 2 ulp for x in [-126, 126], 1 at 0; NaN stays NaN. With fewer instructions than exp2.
TK_INLINE vf exp2_bounded(vf x) {
#if defined(__AVX512DQ__)
  const vf r = (vf)_mm512_maskz_reduce_ps(kAllLanes, (__m512)x, _MM_FROUND_TO_NEG_INF);  // x - floor(x)
  vf p = set(1.8671300819e-03f);
  p = fma(p, r, set(9.0170302844e-03f));
  p = fma(p, r, set(5.5799913146e-02f));
  p = fma(p, r, set(2.4016445014e-01f));
  p = fma(p, r, set(6.9315131181e-01f));
  p = fma(p, r, set(1.0f));
  return (vf)_mm512_maskz_scalef_ps(kAllLanes, (__m512)p, (__m512)x);  // floors x itself
#else
  return exp2(x);
#endif
}

}  // namespace
}  // namespace tk
