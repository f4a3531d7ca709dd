// SPDX-License-Identifier: Apache-2.0
// masked_transfer: which masked positions of a sequence a step of a masked-diffusion language model fixes. The masked
// positions of a row are ranked from 0 by confidence, in the order of score_rows.h: largest first, NaN after every
// number, the lowest position among equals. A position is fixed where
//   rank < count                                         (where counts are given)
//   rank = 0 or confidence >= threshold                  (where a threshold is given)
//
//   from       (B, L)  confidence, float32, float16 or bfloat16, any outer stride, and its mask: 0 = not masked
//   count      (B)     int64, not negative; or null: no bound
//   out        (B, L)  1 = fixed, contiguous
//
// A row without masked positions, or of count 0, fixes nothing; every other row fixes at least one.
#pragma once
#include "select/score_rows.h"

namespace tk::tree {

struct MaskedTransferArgs {
  selection::ScoreRows from;
  const int64_t* count;
  uint8_t* out;
  uint32_t least_key;  // of the threshold; 0: none
};

// Items that a row may fix, at most its width; those that are not masked among them do not count.
TK_INLINE int64_t transfer_count(const MaskedTransferArgs& a, int64_t row) {
  return a.count && a.count[row] < a.from.width ? a.count[row] : a.from.width;
}

TK_DECLARE_OP(masked_transfer, MaskedTransferArgs)

}  // namespace tk::tree
