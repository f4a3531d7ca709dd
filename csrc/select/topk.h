// SPDX-License-Identifier: Apache-2.0
// topk: the best k items of every row, in the order of score_rows.h or (not sorted) by ascending index.
//
//   score  (..., N)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   mask   (..., N)  0 = comes after every other item; or null
//   value  (..., k)  dtype of score, contiguous: score[index], bit for bit; -inf for a masked item
//   index  (..., k)  int64, contiguous
//
// 0 <= k <= N < 2^31. Where fewer than k items are numbers, NaN items follow, and then masked ones, by ascending index.
#pragma once
#include "select/score_rows.h"

namespace tk::selection {

struct TopkArgs {
  ScoreRows from;
  void* value;
  int64_t* index;
  int64_t k;
  bool sorted;
};

TK_DECLARE_OP(topk, TopkArgs)

}  // namespace tk::selection
