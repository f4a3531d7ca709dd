// SPDX-License-Identifier: Apache-2.0
// attention_backward: gradients of attention; the map is computed again from lse, tile by tile. With g the gradient of
// the answers and t that of lse (zero when null), over the pairs (i, j) that the policy allows and whose score s_ij is
// not -inf:
//
//   p_ij = exp(s_ij - lse_i)                          the extra denominator is inside lse
//   ds_ij = p_ij (<g_i, v_j> - <g_i, out_i> + t_i)
//   grad_q_i = scale * sum_j ds_ij k_j      grad_k_j = scale * sum_i ds_ij q_i
//   grad_v_j = sum_i p_ij g_i               grad_key_bias_j = sum_i ds_ij
//
// Sums over i run over every query head that reads a key head, and, for the bias, over every sample and head it serves.
//
//   grad                    (B, H, Nq, D)  dtype of q; rows contiguous, any outer strides
//   q, k, v, key_bias       as in attention
//   out                     (B, H, Nq, D)  its answer; rows contiguous, any outer strides
//   lse                     (B, H, Nq)     its lse: float32 (float64 for float64), contiguous
//   grad_lse                (B, H, Nq)     dtype of lse, contiguous, or null
//   grad_q, grad_k, grad_v  shapes and dtype of q, k, v, contiguous
//   grad_key_bias           (U, V, Nk)     float32, contiguous, U 1 or B, V 1 or H: the extents of key_bias; or null
//
// Sums are kept in float32 or better, in an order that depends on the extents only. A query whose lse is -inf attends
// to nothing and contributes nothing. A NaN reaches the gradients of the pairs it is part of and no others: what is
// hidden is never read into an answer. Half precision: the factors of the products may be rounded to the dtype.
#pragma once
#include "attention/attention.h"

namespace tk::attention {

struct AttentionBackwardArgs {
  HeadRows grad, q, k, v, out;
  const void* lse;
  const void* grad_lse;
  KeyBias key_bias;
  void* grad_q;
  void* grad_k;
  void* grad_v;
  float* grad_key_bias;
  int64_t bias_batch, bias_heads;  // U, V
  Policy policy;
  Shape shape;
  DType dtype;
  double scale;
};

TK_DECLARE_OP(attention_backward, AttentionBackwardArgs)

}  // namespace tk::attention
