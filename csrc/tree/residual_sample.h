// SPDX-License-Identifier: Apache-2.0
// residual_sample: an item drawn from what is left of p where q has been: r_j = max(p_j - q_j, 0), both scaled to sum
// to 1, and index = the first k with r_0 + ... + r_k > u (r_0 + ... + r_V-1); where nothing is left, the same of p.
// Sums as in tree/inverse_cdf.h.
//
//   p, q   (N, V)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   u      (N)     float32, in [0, 1)
//   index  (N)     int64; -1 where the row of p is no distribution within `slack`, else -2 where that of q is none
#pragma once
#include "core/op.h"
#include "tree/inverse_cdf.h"

namespace tk::tree {

struct ResidualSampleArgs {
  const void *p, *q;
  const float* u;
  int64_t* index;
  DType dtype;
  int64_t rows, width;                 // N, V
  int64_t p_row_stride, q_row_stride;  // in elements
  int64_t slack;                       // units of mass that a row may be off
};

constexpr int64_t kNoTarget = -1;
constexpr int64_t kNoDraft = -2;

TK_DECLARE_OP(residual_sample, ResidualSampleArgs)

}  // namespace tk::tree
