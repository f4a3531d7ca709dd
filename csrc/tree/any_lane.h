// SPDX-License-Identifier: Apache-2.0
// Whether a comparison of vectors holds anywhere. Included by per-ISA files only.
#pragma once
#include "core/simd.h"

namespace tk::tree {
namespace {

TK_INLINE bool any_lane(vi mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  int32_t any = 0;
#pragma GCC unroll 4
  for (int i = 0; i < W; ++i) any |= mask[i];
  return any != 0;
#endif
}

}  // namespace
}  // namespace tk::tree
