// SPDX-License-Identifier: Apache-2.0
// The words of cosine_match (core/bf16_dot.h): how their squares add up, and how columns are packed.
#pragma once
#include "core/bf16_dot.h"

namespace tk::merge {
namespace {

// Columns are packed as unit vectors.
struct Singles : Floats {
  static constexpr bool kUnitColumns = true;

  TK_INLINE vf squares(vf x, vf sum) { return fma(x, x, sum); }
  TK_INLINE double squares(float x) { return static_cast<double>(x) * x; }
};

#if defined(__AVX512F__)
// Columns are packed as they are.
struct Pairs : Bf16Pairs {
  static constexpr bool kUnitColumns = false;

  TK_INLINE vf squares(vf x, vf sum) { return fma(upper(x), upper(x), fma(lower(x), lower(x), sum)); }
  TK_INLINE double squares(float word) {
    const uint32_t bits = detail::bit_cast<uint32_t>(word);
    const double low = detail::bit_cast<float>(bits << 16);
    const double high = detail::bit_cast<float>(bits & 0xffff0000u);
    return low * low + high * high;
  }
};
#else
using Pairs = Singles;
#endif

}  // namespace
}  // namespace tk::merge
