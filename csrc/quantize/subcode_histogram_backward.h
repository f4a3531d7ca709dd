// SPDX-License-Identifier: Apache-2.0
// subcode_histogram_backward: with M the number of rows averaged and b_j the bit j of a code,
//
//   grad_x_ngj = slope p_ngj (1 - p_ngj) / M  sum over codes of grad_code (b_j ? 1 : -1) prod_{i != j} (b_i ? p : 1 -
//   p)
//
//   grad    (2^bits) if pool, else (G, 2^bits)  float32, contiguous
//   x       (N, G, bits)  as given to subcode_histogram
//   grad_x  (N, G, bits)  dtype of x, contiguous; 0 where p is saturated. A NaN stays in its group of bits.
#pragma once
#include "core/op.h"
#include "quantize/subcode_histogram.h"

namespace tk::quantize {

struct SubcodeHistogramBackwardArgs {
  const float* grad;
  const void* x;
  void* grad_x;
  DType dtype;
  int64_t rows, groups, bits;  // N, G, bits
  int64_t x_row_stride, x_group_stride;
  float slope;
  bool msb, pool;
};

TK_DECLARE_OP(subcode_histogram_backward, SubcodeHistogramBackwardArgs)

}  // namespace tk::quantize
