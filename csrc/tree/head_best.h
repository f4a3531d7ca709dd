// SPDX-License-Identifier: Apache-2.0
// What the logits met so far say of W rows at once, a row a lane: the best of them, and the sum behind the softmax.
// Included by per-ISA files only.
#pragma once
#include "core/exp2.h"
#include "core/simd.h"
#include "tree/row_sums.h"

namespace tk::tree {
namespace {

struct LaneBest {
  vf top;         // the largest logit that is a number
  vf shift, sum;  // of 2^(logit * log2(e) - shift); a shift is a whole number, or too large to have a fraction
  vi id;          // of the largest; -1 before the first
};

TK_INLINE LaneBest no_logits() { return {set(-__builtin_inff()), set(kNoShift), zero(), set_int(-1)}; }

TK_INLINE vf nearest_whole(vf x) {
  const vf rounded = (x + 12582912.0f) - 12582912.0f;
  return select(abs(x) < 4194304.0f, rounded, x);
}

// A logit beats the best so far if it is larger, or the first that is a number.
TK_INLINE void offer_logit(LaneBest* best, vf logit, vi id) {
  const vi first = (best->id < 0) & (logit == logit) & (id >= 0);
  const vi better = (logit > best->top) | first;
  best->top = select(better, logit, best->top);
  best->id = select(better, id, best->id);
}

// Logits first.. of every lane, in ascending order of ids.
template <int R>
TK_INLINE void offer_logits(LaneBest* best, const vf (&logits)[R], int64_t first) {
  const vf scale = set(1.44269504088896341f);
  vf high = set(-__builtin_inff());
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    offer_logit(best, logits[r], set_int(static_cast<int32_t>(first + r)));
    high = max(logits[r], high);  // a NaN changes nothing
  }
  const vf scaled = high * scale;
  const vf shift = select(scaled > best->shift + kShiftSlack, nearest_whole(scaled), best->shift);
  vf sum = zero();
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sum += exp2(fma(logits[r], scale, -shift));
  best->sum = fma(best->sum, exp2(best->shift - shift), sum);
  best->shift = shift;
}

// What two parts say together; the ids of b come after those of a.
TK_INLINE LaneBest join_parts(LaneBest a, const LaneBest& b) {
  offer_logit(&a, b.top, b.id);
  const vf shift = max(a.shift, b.shift);
  const vf sum = fma(a.sum, exp2(a.shift - shift), b.sum * exp2(b.shift - shift));
  return {a.top, shift, sum, a.id};
}

}  // namespace
}  // namespace tk::tree
