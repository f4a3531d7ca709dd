// SPDX-License-Identifier: Apache-2.0
// topk_gate_backward: the gradient of the weights of topk_gate for its logits, from the logits anew. With
// p = softmax(logits[b, t, :]), or, where `normalize`, that softmax over the chosen experts alone (0 elsewhere):
//   grad_logits[b, t, e] = p_e * (g_e - sum over i of grad[b, t, i] * p[index[b, t, i]])
// where g_e is grad[b, t, i] for e = index[b, t, i], and 0 for an expert that was not chosen. In float32, rounded once.
//
//   logits       (B, T, E)  float32, float16 or bfloat16; rows contiguous, any outer strides; E <= kMostExperts
//   index        (B, T, k)  int64, contiguous; in [0, E), checked by the caller where the memory is on the host, and
//                           distinct in a row, as topk_gate makes them
//   grad         (B, T, k)  float32, contiguous
//   grad_logits  (B, T, E)  dtype of logits, contiguous
//
// A row whose softmax is none gets NaN (with `normalize` only where it was chosen). On a device an index outside [0, E)
// is skipped.
#pragma once
#include "select/topk_gate.h"

namespace tk::selection {

struct TopkGateBackwardArgs {
  ScoreRows logits;  // no mask; rows B * T
  const float* grad;
  const int64_t* index;
  void* grad_logits;
  int64_t k;
  bool normalize;
};

TK_DECLARE_OP(topk_gate_backward, TopkGateBackwardArgs)

}  // namespace tk::selection
