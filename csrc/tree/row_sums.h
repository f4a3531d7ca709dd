// SPDX-License-Identifier: Apache-2.0
// The sums behind the softmax of a part of a row, in base 2, and how parts become one. With x = logit * scale:
//   sum = sum_j 2^(x_j - shift)        weighted = sum_j 2^(x_j - shift) (x_j - shift)
// A shift is a whole number: going from one to another multiplies by a power of two, which rounds nothing.
#pragma once
#include <cmath>

#include "core/dtype.h"

namespace tk::tree {

constexpr float kNoShift = -1e30f;      // of a part without a number above -inf
constexpr float kShiftSlack = 16.0f;    // an exponent may exceed the shift by so much before the shift follows
constexpr float kLeastPower = -126.0f;  // of a weighted term: 0 times -inf is no number
constexpr float kLn2 = 0.693147180559945309f;

struct RowSums {
  float shift, sum, weighted;
};

TK_INLINE RowSums no_sums() { return {kNoShift, 0.0f, 0.0f}; }

TK_INLINE RowSums move_shift(RowSums s, float shift) {
  if (s.sum == 0.0f) return {shift, 0.0f, 0.0f};
  const float step = s.shift - shift;
  const float factor = exp2f(step);
  return {shift, s.sum * factor, (s.weighted + step * s.sum) * factor};
}

TK_INLINE RowSums join_sums(RowSums a, RowSums b) {
  const float shift = a.shift > b.shift ? a.shift : b.shift;
  a = move_shift(a, shift);
  b = move_shift(b, shift);
  return {shift, a.sum + b.sum, a.weighted + b.weighted};
}

TK_INLINE float log_sum(RowSums s) { return (s.shift + log2f(s.sum)) * kLn2; }

TK_INLINE float row_entropy(RowSums s) {
  const float h = (log2f(s.sum) - s.weighted / s.sum) * kLn2;
  return h < 0.0f ? 0.0f : h;
}

TK_INLINE float share_of(RowSums s, float logit, float scale) {
  const float p = exp2f(fmaf(logit, scale, -s.shift)) / s.sum;
  return p > 1.0f ? 1.0f : p;
}

}  // namespace tk::tree
