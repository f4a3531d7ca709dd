// SPDX-License-Identifier: Apache-2.0
// Sequences of ids that lie one behind the other.
#pragma once
#include "core/dtype.h"

namespace tk::bpe {
namespace {

// The sequence that holds a position: the first that ends behind it; `batch` where none does.
TK_INLINE int64_t sequence_at(const int64_t* offsets, int64_t batch, int64_t position) {
  int64_t low = 0;
  int64_t high = batch;
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

// Left in the upper half, so that numbers are in the order of pairs.
TK_INLINE uint64_t pair_key(int64_t left, int64_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
}

}  // namespace
}  // namespace tk::bpe
