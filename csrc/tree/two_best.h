// SPDX-License-Identifier: Apache-2.0
// The two first items of a row: the largest logit first, NaN after every number, the lowest index among equals.
#pragma once
#include "core/dtype.h"

namespace tk::tree {

struct Candidate {
  uint32_t key;  // 0: no item
  int64_t index;
};

struct TwoBest {
  Candidate first, second;
};

// Larger keys come first; -0 equals +0.
TK_INLINE uint32_t logit_key(float logit) {
  const uint32_t bits = detail::bit_cast<uint32_t>(logit);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 1;
  return bits >> 31 ? 0x80000000u - magnitude : 0x80000000u + magnitude;
}

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
