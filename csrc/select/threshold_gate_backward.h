// SPDX-License-Identifier: Apache-2.0
// threshold_gate_backward: the straight-through gradient of threshold_gate, as if the gate were its sigmoid s:
//   grad_logits = grad * s (1 - s) / tau   with s = sigmoid((logits + noise) / tau), in float32, rounded once
//
//   grad, logits  (N)  of one dtype, float32, float16 or bfloat16, contiguous
//   noise         (N)  float32, contiguous
//   grad_logits   (N)  dtype of logits, contiguous
//
// NaN propagates; infinite logits have gradient 0 * grad.
#pragma once
#include "core/op.h"

namespace tk::selection {

struct ThresholdGateBackwardArgs {
  const void* grad;
  const void* logits;
  const float* noise;
  void* grad_logits;
  DType dtype;
  int64_t count;
  float tau;  // positive
};

TK_DECLARE_OP(threshold_gate_backward, ThresholdGateBackwardArgs)

}  // namespace tk::selection
