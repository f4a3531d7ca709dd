// SPDX-License-Identifier: Apache-2.0
// topk_mask: out[..., n] = 1 where item n is one of those that topk chooses.
//
//   score  (..., N)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   mask   (..., N)  0 = comes after every other item; or null
//   out    (..., N)  uint8, contiguous; exactly k ones in every row, masked items among them only where k asks for it
#pragma once
#include "select/score_rows.h"

namespace tk::selection {

struct TopkMaskArgs {
  ScoreRows from;
  uint8_t* out;
  int64_t k;
};

TK_DECLARE_OP(topk_mask, TopkMaskArgs)

}  // namespace tk::selection
