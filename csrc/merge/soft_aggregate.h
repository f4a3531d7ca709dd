// SPDX-License-Identifier: Apache-2.0
// soft_aggregate: every target is a weighted mean of all tokens; the weights come from logits and are never stored.
//
//   over tokens:  P[i, j] = exp(l[i, j]) / sum over j of exp(l[i, j]),  y[i] = sum over j of P[i, j] x[j]
//   over targets: P[i, j] = exp(l[i, j]) / sum over i of exp(l[i, j]),  mass_out[i] = sum over j of P[i, j] mass[j],
//                 y[i] = sum over j of P[i, j] mass[j] x[j] / mass_out[i]
//
//   x         (B, N, C)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   logits    (B, M, N)  float32, float16 or bfloat16, independent of x; any strides
//   mass      (B, N)     float32, contiguous, or null for ones (over targets only)
//   y         (B, M, C)  dtype of x, contiguous
//   mass_out  (B, M)     float32, contiguous (over targets only)
//
// The largest logit of a sum is subtracted before exp, so no finite logit overflows. A logit of -inf has weight 0; a
// sum of nothing but -inf (or of nothing) has weights 0. A target whose weights or mass add up to 0 is a zero row. A
// NaN or +inf logit makes NaN the sums it takes part in. Accumulation is float32 on every backend, and so are weights,
// except that x meets weights rounded to its dtype on CUDA over tokens with float16 or bfloat16 x (tensor cores), and
// with bfloat16 x on processors with AVX512-BF16. These round before they divide by the sum of the float32 weights, so
// that rounding stays relative, and take numbers and products below 2^-126 for zeros.
#pragma once
#include "core/op.h"

namespace tk::merge {

struct SoftAggregateArgs {
  const void* x;
  const void* logits;
  const float* mass;
  void* y;
  float* mass_out;  // null: over tokens
  DType dtype, logits_dtype;
  int64_t batch, tokens, targets, width;  // B, N, M, C
  int64_t x_batch_stride, x_row_stride;   // in elements
  int64_t logits_batch_stride, logits_target_stride, logits_token_stride;
};

TK_DECLARE_OP(soft_aggregate, SoftAggregateArgs)

}  // namespace tk::merge
