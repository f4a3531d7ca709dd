// SPDX-License-Identifier: Apache-2.0
// segment_softmax: softmax over each segment of a row of scores, in float32.
//
//   out[b, n] = exp(scores[b, n] - max) / sum of exp(scores[b, i] - max) over the tokens i of the segment of n
//
//   scores   (B, N)  float32, float16 or bfloat16; any batch stride
//   offsets  (B, S + 1) or (S + 1) int64
//   out      (B, N)  dtype of scores, contiguous
//
// segment_softmax_backward, from the output p of the forward pass:
//   grad_scores[b, n] = p[b, n] (grad[b, n] - sum of p[b, i] grad[b, i] over the segment)
//
// A score of -inf gives 0, and a segment of nothing else gives zeros. NaN or +inf makes its whole segment NaN.
#pragma once
#include "core/op.h"

namespace tk::merge {

struct SegmentSoftmaxArgs {
  const void* scores;
  const int64_t* offsets;
  void* out;
  DType dtype;
  int64_t batch, tokens, segments;  // B, N, S
  int64_t scores_batch_stride, offsets_batch_stride;
};

struct SegmentSoftmaxBackwardArgs {
  const void* grad;
  const void* p;
  const int64_t* offsets;
  void* grad_scores;
  DType dtype;
  int64_t batch, tokens, segments;
  int64_t grad_batch_stride, p_batch_stride, offsets_batch_stride;
};

TK_DECLARE_OP(segment_softmax, SegmentSoftmaxArgs)
TK_DECLARE_OP(segment_softmax_backward, SegmentSoftmaxBackwardArgs)

}  // namespace tk::merge
