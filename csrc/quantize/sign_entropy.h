// SPDX-License-Identifier: Apache-2.0
// The entropy of a sign bit, p = 1 / (1 + exp(-z)), and its slope, as functions of |z|: on F, a float or a vector of
// them, so that every backend computes the same.
#pragma once
#include "core/dtype.h"

namespace tk::quantize {

constexpr float kSaturatedBit = 86.0f;  // exp(-86) is still a normal number; what is beyond weighs nothing

// log(1 + y) for y in [0, 1], to a few roundings of itself: 2 artanh(y / (2 + y)), whose series has s <= 1/3.
template <class F>
TK_INLINE F log_one_plus(F y) {
  const F s = y / (y + 2.0f);
  const F z = s * s;
  F series = z * (1.0f / 15) + (1.0f / 13);
  series = series * z + (1.0f / 11);
  series = series * z + (1.0f / 9);
  series = series * z + (1.0f / 7);
  series = series * z + (1.0f / 5);
  series = series * z + (1.0f / 3);
  series = series * z + 1.0f;
  return s * 2.0f * series;
}

// H(p) by `size` = |z| and `power` = exp(-|z|).
template <class F>
TK_INLINE F sign_entropy(F size, F power) {
  return log_one_plus(power) + size * power / (power + 1.0f);
}

// |z| p (1 - p)
template <class F>
TK_INLINE F sign_slope(F size, F power) {
  const F whole = power + 1.0f;
  return size * power / (whole * whole);
}

}  // namespace tk::quantize
