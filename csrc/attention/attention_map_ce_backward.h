// SPDX-License-Identifier: Apache-2.0
// attention_map_ce_backward: the gradients of attention_map_ce for the student; the teacher has none.
//   dS_ij = grad[b,h,i] (softmax(S)_ij - softmax(T)_ij),  grad_q_i = scale_s sum_j dS_ij k_s[j],
//   grad_k_j = scale_s sum_i dS_ij q_s[i]
//
//   grad            (B, H, N)      float32, contiguous
//   lse_s, lse_t    (B, H, N)      float32, as the forward pass returned them
//   grad_q, grad_k  shapes and dtype of q_s and k_s, contiguous
//
// Sums in float32 or better, in a fixed order.
#pragma once
#include "attention/attention_map_ce.h"

namespace tk::attention {

struct AttentionMapCeBackwardArgs {
  MapSide student, teacher;
  const float* grad;
  const float* lse_student;
  const float* lse_teacher;
  void* grad_q;
  void* grad_k;
  DType dtype;
  int64_t batch, heads, queries, keys;
};

TK_DECLARE_OP(attention_map_ce_backward, AttentionMapCeBackwardArgs)

}  // namespace tk::attention
