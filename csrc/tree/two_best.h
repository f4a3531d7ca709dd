// SPDX-License-Identifier: Apache-2.0
// The two first items of a row: the largest logit first, NaN after every number, the lowest index among equals.
#pragma once
#include "core/score_key.h"

namespace tk::tree {

struct Candidate {
  uint32_t key;  // 0: no item
  int64_t index;
};

struct TwoBest {
  Candidate first, second;
};

TK_INLINE bool comes_before(Candidate a, Candidate b) { return a.key > b.key || (a.key == b.key && a.index < b.index); }

TK_INLINE TwoBest no_best() { return {{0, -1}, {0, -1}}; }

TK_INLINE void offer(TwoBest* best, Candidate item) {
  if (comes_before(item, best->first)) {
    best->second = best->first;
    best->first = item;
  } else if (comes_before(item, best->second)) {
    best->second = item;
  }
}

}  // namespace tk::tree
