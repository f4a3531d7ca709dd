// SPDX-License-Identifier: Apache-2.0
// segment_reduce_backward: the gradients of segment_reduce. With s the segment of token n and g = grad[b, s, :],
//
//   sum   grad_x[b, n, :] = w[b, n] g                 grad_weight[b, n] = x[b, n, :] . g
//   mean  grad_x[b, n, :] = w[b, n] g / mass[b, s]    grad_weight[b, n] = (x[b, n, :] - out[b, s, :]) . g / mass[b, s]
//   amax  grad_x[b, n, c] = g[c] where token n is the first of its segment to hold the maximum of channel c, else 0;
//         the first NaN counts as the maximum
//
//   grad         (B, S, C)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   x            (B, N, C)  dtype of grad; null unless grad_weight is asked for or the mode is amax
//   weight       (B, N) float32, or null for 1 everywhere
//   grad_mass    (B, S) float32, added to the grad_weight of every token of the segment, or null
//   grad_x       (B, N, C)  dtype of grad, contiguous
//   grad_weight  (B, N) float32, or null
//
// A token without segment gets zeros; a mean over a mass of zero is constant, so that only grad_mass remains. Masses
// add up in float64, dot products in float32.
#pragma once
#include "core/op.h"
#include "merge/segment_index.h"
#include "merge/segment_reduce.h"

namespace tk::merge {

struct SegmentReduceBackwardArgs {
  const void* grad;
  const void* x;
  SegmentIndex index;
  const float* weight;
  const float* grad_mass;
  void* grad_x;
  float* grad_weight;
  DType dtype;
  SegmentMode mode;
  int64_t batch, tokens, segments, width;  // B, N, S, C
  int64_t grad_batch_stride, grad_row_stride, x_batch_stride, x_row_stride;
};

TK_DECLARE_OP(segment_reduce_backward, SegmentReduceBackwardArgs)

}  // namespace tk::merge
