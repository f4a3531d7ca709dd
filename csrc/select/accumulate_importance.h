// SPDX-License-Identifier: Apache-2.0
// accumulate_importance: out[b,j] = score[b,j] + sum over heads h and live queries i of prob[b,h,i,j].
//
//   prob   (B, H, Q, K)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   score  (B, K)        float32, contiguous, or null for zeros
//   live   (B, Q)        uint8, contiguous, 0 = the query counts nothing and its row is not read; or null
//   out    (B, K)        float32, contiguous
//
// Sums are kept in float32, in an order that the shape decides. Nothing to add leaves score as it is.
#pragma once
#include "core/head_row.h"
#include "core/op.h"

namespace tk::selection {

struct AccumulateImportanceArgs {
  HeadRows prob;
  const float* score;
  const uint8_t* live;
  float* out;
  int64_t batch, heads, queries, keys;
  DType dtype;
};

TK_DECLARE_OP(accumulate_importance, AccumulateImportanceArgs)

}  // namespace tk::selection
