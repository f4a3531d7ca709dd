// SPDX-License-Identifier: Apache-2.0
// What the logits met so far say of W rows at once, a row a lane: the best of them, and the sum behind the softmax.
// Included by per-ISA files only.
#pragma once
#include "core/exp2.h"
#include "core/simd.h"
#include "tree/head_argmax_prob.h"

namespace tk::tree {
namespace {

struct LaneBest {
  vf top;         // the largest logit that is a number
  vf shift, sum;  // of exp(logit - shift)
  vi id;          // of the largest; -1 before the first
};

TK_INLINE vf power(vf x) { return exp2(x * kHeadLog2E); }

TK_INLINE LaneBest no_logits() { return {set(-__builtin_inff()), set(kNoHeadShift), zero(), set_int(-1)}; }

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
  vf high = set(-__builtin_inff());
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    offer_logit(best, logits[r], set_int(static_cast<int32_t>(first + r)));
    high = max(logits[r], high);  // a NaN changes nothing
  }
  const vf shift = select(high > best->shift + kHeadSlack, high, best->shift);
  vf sum = zero();
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sum += power(logits[r] - shift);
  best->sum = fma(best->sum, power(best->shift - shift), sum);
  best->shift = shift;
}

// What two parts say together; the ids of b come after those of a.
TK_INLINE LaneBest join_parts(LaneBest a, const LaneBest& b) {
  offer_logit(&a, b.top, b.id);
  const vf shift = max(a.shift, b.shift);
  const vf sum = fma(a.sum, power(a.shift - shift), b.sum * power(b.shift - shift));
  return {a.top, shift, sum, a.id};
}

}  // namespace
}  // namespace tk::tree
