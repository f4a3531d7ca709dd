// SPDX-License-Identifier: Apache-2.0
// accumulate_head_scores: out[b,h] = score[b,h] + sum over live queries i and channels d of |e[b,h,i,d]|.
//
//   e      (B, H, Q, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   score  (B, H)        float32, contiguous, or null for zeros
//   live   (B, Q)        uint8, contiguous, 0 = the query counts nothing and its row is not read; or null
//   out    (B, H)        float32, contiguous
//
// Sums are kept in float32, in an order that the shape decides. Nothing to add leaves score as it is.
#pragma once
#include "core/head_row.h"
#include "core/op.h"

namespace tk::selection {

struct AccumulateHeadScoresArgs {
  HeadRows e;
  const float* score;
  const uint8_t* live;
  float* out;
  int64_t batch, heads, queries, width;
  DType dtype;
};

TK_DECLARE_OP(accumulate_head_scores, AccumulateHeadScoresArgs)

}  // namespace tk::selection
