// SPDX-License-Identifier: Apache-2.0
// attention_column_sums: how much attention every key receives, the map being summed as it is recomputed.
//
//   out[b,h,j] = sum over the queries i that see key j of weight[b,i] * exp(s_ij - lse[b,h,i])
//   s_ij = scale * <q[b,h,i], k[b,g,j]> + key_bias[b,h,j],  g = h / (H / G)
//
//   q, k, key_bias  as attention
//   lse     (B, H, Nq)  float32 (float64 for float64), contiguous: what attention returned
//   weight  (B, Nq)     float32, contiguous, or null for ones
//   out     (B, H, Nk)  float32, contiguous
//
// A query with lse = -inf sees nothing, and one of weight 0 is left out, whatever it holds. Any other NaN in a query,
// its lse or a key it sees shows in the keys that the query sees. A key that nobody sees gets 0. Sums are kept in
// float32 or better, and cut by the extents alone: the bits do not depend on the number of threads.
#pragma once
#include "attention/attention.h"

namespace tk::attention {

struct AttentionColumnSumsArgs {
  HeadRows q, k;
  KeyBias key_bias;
  const void* lse;
  const float* weight;
  int64_t weight_batch_stride;  // 0: the same weights for every sample
  float* out;
  Policy policy;
  Shape shape;
  DType dtype;
  double scale;
};

TK_DECLARE_OP(attention_column_sums, AttentionColumnSumsArgs)

}  // namespace tk::attention
