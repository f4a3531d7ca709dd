// SPDX-License-Identifier: Apache-2.0
// pack_ancestors: one bit a node. Bit n % 64 of words[r, n / 64] is seen[r, n]; bits past the last node are 0.
//
//   seen   (R, T)              bytes, any row stride
//   words  (R, ceil(T / 64))   int64, contiguous
#pragma once
#include "core/op.h"

namespace tk::attention {

struct PackAncestorsArgs {
  const uint8_t* seen;
  uint64_t* words;
  int64_t rows, nodes, row_stride;
};

TK_DECLARE_OP(pack_ancestors, PackAncestorsArgs)

TK_INLINE uint64_t pack_word(const uint8_t* seen, int64_t nodes) {
  uint64_t word = 0;
  for (int64_t n = 0; n < nodes && n < 64; ++n) word |= static_cast<uint64_t>(seen[n] != 0) << n;
  return word;
}

}  // namespace tk::attention
