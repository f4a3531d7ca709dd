// SPDX-License-Identifier: Apache-2.0
// subcode_histogram: how often each code of `bits` sign bits is used, softly: the softmax over all codes of +-1 falls
// apart into bits, so that no logit is needed. With p_ngj = 1 / (1 + exp(-slope x_ngj)):
//
//   P_ng(code)     = prod_j (bit j of code ? p_ngj : 1 - p_ngj)
//   histogram_code = mean over n and g of P_ng(code), or one histogram for every g: mean over n
//
//   x          (N, G, bits)  float32, float16 or bfloat16; bits contiguous, any outer strides; 1 <= bits <= 16
//   histogram  (2^bits) if pool, else (G, 2^bits)  float32; zeros where there is nothing to average
//
// Bit j is worth 2^j, or 2^(bits - 1 - j) with msb. A NaN makes every item of its histogram NaN.
#pragma once
#include "core/op.h"

namespace tk::quantize {

constexpr int kMostSubcodeBits = 16;

struct SubcodeHistogramArgs {
  const void* x;
  float* histogram;
  DType dtype;
  int64_t rows, groups, bits;  // N, G, bits
  int64_t x_row_stride, x_group_stride;
  float slope;
  bool msb, pool;
};

TK_DECLARE_OP(subcode_histogram, SubcodeHistogramArgs)

}  // namespace tk::quantize
