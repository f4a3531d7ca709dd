// SPDX-License-Identifier: Apache-2.0
// row_stats_backward: the dense part of the gradient of row_stats,
//   out_nj = p_nj (level_n - slope_n log p_nj) / temperature,  p_nj = exp(logits_nj / temperature - lse_n)
// with 0 log 0 = 0. level and slope are what the gradients of lse, entropy and chosen p add up to.
//
//   logits  (B, N, V)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   lse, level, slope  (B, N)  float32, contiguous
//   out     (B, N, V)  dtype of logits, contiguous
#pragma once
#include "core/op.h"

namespace tk::tree {

struct RowStatsBackwardArgs {
  const void* logits;
  const float *lse, *level, *slope;
  void* out;
  DType dtype;
  int64_t batch, rows, width;
  int64_t batch_stride, row_stride;
  float inverse_temperature;
};

TK_DECLARE_OP(row_stats_backward, RowStatsBackwardArgs)

}  // namespace tk::tree
