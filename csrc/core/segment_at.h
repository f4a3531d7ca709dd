// SPDX-License-Identifier: Apache-2.0
// Which of several segments that lie one behind the other holds a position.
#pragma once
#include "core/dtype.h"

namespace tk {
namespace {

// The first segment that ends behind a position: the one that holds it; `segments` where none does. Of (segments + 1)
// ascending offsets.
TK_INLINE int64_t segment_at(const int64_t* offsets, int64_t segments, int64_t position) {
  int64_t low = 0;
  int64_t high = segments;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (offsets[middle + 1] > position) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace
}  // namespace tk
