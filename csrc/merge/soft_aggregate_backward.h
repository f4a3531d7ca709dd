// SPDX-License-Identifier: Apache-2.0
// soft_aggregate_backward: gradients of soft_aggregate; the weights P are computed again. With g the gradient of y and
// h that of mass_out (zero when null), per batch:
//
//   over tokens:  d[i, j] = g[i] . x[j] - g[i] . y[i]
//                 grad_logits[i, j] = P[i, j] d[i, j],  grad_x[j] = sum over i of P[i, j] g[i]
//   over targets: with a[i] = 1 / mass_out[i], or 0 where mass_out[i] is 0, and e[i] = h[i] - a[i] g[i] . y[i]:
//                 t[j] = sum over i of P[i, j] a[i] g[i],  s[j] = x[j] . t[j] + sum over i of P[i, j] e[i]
//                 grad_logits[i, j] = P[i, j] mass[j] (a[i] g[i] . x[j] + e[i] - s[j])
//                 grad_x[j] = mass[j] t[j],  grad_mass[j] = s[j]
//
//   grad_y       (B, M, C)  dtype of x; rows contiguous, any outer strides
//   grad_mass_out (B, M)    float32, contiguous, or null (over targets only)
//   x, logits, mass         as in soft_aggregate
//   y, mass_out             its results; contiguous
//   grad_x       (B, N, C)  dtype of x, contiguous
//   grad_logits  (B, M, N)  dtype of logits, contiguous
//   grad_mass    (B, N)     float32, contiguous (over targets only)
//
// With bfloat16 x, processors with AVX512-BF16 add up g[i] . x[j] from products of bfloat16, in float32, and, over
// tokens, grad_x from weights P[i, j] rounded to bfloat16. Numbers and products below 2^-126 count as zero there.
#pragma once
#include "core/op.h"

namespace tk::merge {

struct SoftAggregateBackwardArgs {
  const void* grad_y;
  const float* grad_mass_out;
  const void* x;
  const void* logits;
  const float* mass;
  const void* y;
  const float* mass_out;  // null: over tokens
  void* grad_x;
  void* grad_logits;
  float* grad_mass;
  DType dtype, logits_dtype;
  int64_t batch, tokens, targets, width;                                     // B, N, M, C
  int64_t grad_batch_stride, grad_row_stride, x_batch_stride, x_row_stride;  // in elements
  int64_t logits_batch_stride, logits_target_stride, logits_token_stride;
};

TK_DECLARE_OP(soft_aggregate_backward, SoftAggregateBackwardArgs)

}  // namespace tk::merge
