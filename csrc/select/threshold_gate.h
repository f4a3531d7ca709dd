// SPDX-License-Identifier: Apache-2.0
// threshold_gate: gate = 1 where logits + noise > 0, else 0; in float32. For every temperature tau > 0 that is
// 1[sigmoid((logits + noise) / tau) > 0.5] before its rounding.
//
//   logits  (N)  float32, float16 or bfloat16, contiguous
//   noise   (N)  float32, contiguous, or null: none
//   gate    (N)  dtype of logits, contiguous; exactly 0 or 1
//
// Zero of either sign and NaN give 0.
#pragma once
#include "core/op.h"

namespace tk::selection {

struct ThresholdGateArgs {
  const void* logits;
  const float* noise;
  void* gate;
  DType dtype;
  int64_t count;
};

TK_DECLARE_OP(threshold_gate, ThresholdGateArgs)

}  // namespace tk::selection
