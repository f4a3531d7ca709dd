// SPDX-License-Identifier: Apache-2.0
// The sums behind the softmax of a part of a row, in base 2, and how parts become one. With x = logit * scale:
//   sum = sum_j 2^(x_j - shift)        weighted = sum_j 2^(x_j - shift) (x_j - shift)
// A shift is a whole number, so that going from one to another multiplies by a power of two, which rounds nothing. Of
// numbers so large that a float has no digits left for the difference, it is the product logit * scale itself, which a
// double holds exactly.
#pragma once
#include <cmath>

#include "core/dtype.h"

namespace tk::tree {

constexpr double kNoShift = -1e300;     // of a part without a number above -inf
constexpr double kNearShift = 1 << 20;  // a float holds whole numbers up to here, and an eighth beside them
constexpr float kShiftSlack = 16.0f;    // an exponent may exceed the shift by so much before the shift follows
constexpr float kLeastPower = -126.0f;  // of a weighted term: 0 times -inf is no number
constexpr double kLeastStep = -1e30;    // between shifts: as above
constexpr double kLn2 = 0.693147180559945309;

struct RowSums {
  double shift;
  float sum, weighted;
};

TK_INLINE RowSums no_sums() { return {kNoShift, 0.0f, 0.0f}; }

TK_INLINE bool is_near(double shift) { return shift <= kNearShift && shift >= -kNearShift; }

TK_INLINE double far_product(float logit, float scale) {
  return static_cast<double>(logit) * static_cast<double>(scale);
}

// logit * scale - shift.
TK_INLINE float above_shift(float logit, float scale, double shift) {
  if (is_near(shift)) return fmaf(logit, scale, -static_cast<float>(shift));
  return static_cast<float>(far_product(logit, scale) - shift);
}

// Whether the shift must follow a logit; true of NaN.
TK_INLINE bool exceeds_shift(float logit, float scale, double shift) {
  if (is_near(shift)) return !(logit * scale <= static_cast<float>(shift) + kShiftSlack);
  return !(far_product(logit, scale) <= shift + static_cast<double>(kShiftSlack));
}

TK_INLINE double shift_at(float logit, float scale) {
  const float x = logit * scale;
  return is_near(static_cast<double>(x)) ? static_cast<double>(floorf(x)) : far_product(logit, scale);
}

TK_INLINE RowSums move_shift(RowSums s, double shift) {
  if (s.sum == 0.0f) return {shift, 0.0f, 0.0f};
  const double gap = s.shift - shift;
  const auto step = static_cast<float>(gap < kLeastStep ? kLeastStep : gap);
  const float factor = exp2f(step);
  return {shift, s.sum * factor, (s.weighted + step * s.sum) * factor};
}

TK_INLINE RowSums join_sums(RowSums a, RowSums b) {
  const double shift = a.shift > b.shift ? a.shift : b.shift;
  a = move_shift(a, shift);
  b = move_shift(b, shift);
  return {shift, a.sum + b.sum, a.weighted + b.weighted};
}

TK_INLINE float log_sum(RowSums s) { return static_cast<float>((s.shift + static_cast<double>(log2f(s.sum))) * kLn2); }

TK_INLINE float row_entropy(RowSums s) {
  const float h = (log2f(s.sum) - s.weighted / s.sum) * static_cast<float>(kLn2);
  return h < 0.0f ? 0.0f : h;
}

TK_INLINE float share_of(RowSums s, float logit, float scale) {
  const float p = exp2f(above_shift(logit, scale, s.shift)) / s.sum;
  return p > 1.0f ? 1.0f : p;
}

}  // namespace tk::tree
