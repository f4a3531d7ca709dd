// SPDX-License-Identifier: Apache-2.0
// bit_entropy_backward: grad_x_nd = -grad_n slope z p (1 - p), with z = slope x_nd and p = 1 / (1 + exp(-z)).
//
//   grad    (N)     float32, contiguous
//   x       (N, D)  as given to bit_entropy
//   grad_x  (N, D)  dtype of x, contiguous; 0 where p is saturated, NaN where x is NaN
#pragma once
#include "core/op.h"

namespace tk::quantize {

struct BitEntropyBackwardArgs {
  const float* grad;
  const void* x;
  void* grad_x;
  DType dtype;
  int64_t rows, width;  // N, D
  float slope;
};

TK_DECLARE_OP(bit_entropy_backward, BitEntropyBackwardArgs)

}  // namespace tk::quantize
