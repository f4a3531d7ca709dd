// SPDX-License-Identifier: Apache-2.0
// merge_attention_backward: of a loss with gradients grad for out and grad_lse for lse,
//   grad_outs_k = w_k grad        grad_lses_k = w_k (<grad, outs_k> - sum_j w_j <grad, outs_j> + grad_lse)
// with w_k = exp(lses_k - lse) as in merge_attention, made from the lses again.
//
//   grad  (B, H, N, D), outs (K, B, H, N, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   lses  (K, B, H, N)  float32;  grad_lse (B, H, N) float32, contiguous, or null for zeros
//   grad_outs (K, B, H, N, D) dtype of outs, grad_lses (K, B, H, N) float32; contiguous
//
// A part whose lse is -inf gets zeros, whatever it holds.
#pragma once
#include "tree/merge_attention.h"

namespace tk::tree {

struct MergeAttentionBackwardArgs {
  HeadRows grad, outs;
  int64_t part_stride;  // of outs
  PartLses lses;
  const float* grad_lse;
  void* grad_outs;
  float* grad_lses;
  DType dtype;
  PartShape shape;
};

TK_DECLARE_OP(merge_attention_backward, MergeAttentionBackwardArgs)

}  // namespace tk::tree
