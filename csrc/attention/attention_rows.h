// SPDX-License-Identifier: Apache-2.0
// attention_rows: chosen rows of the attention map, without the others.
//
//   out[b,h,r,j] = exp(s_ij - lse[b,h,i]) with i = rows[b,r] where the policy lets query i see key j, else 0
//   s_ij = scale * <q[b,h,i], k[b,g,j]> + key_bias[b,h,j],  g = h / (H / G)
//
//   q, k, key_bias  as attention
//   rows  (B, R)         int64, every value in [0, Nq); checked by the caller where the memory is on the host
//   lse   (B, H, Nq)     float32 (float64 for float64), contiguous: what attention returned
//   out   (B, H, R, Nk)  float32, contiguous
//
// A query with lse = -inf sees nothing: zeros. A NaN in a query, in its lse or in a key that it sees shows where it is
// seen; a hidden key stays 0. On a device a row outside [0, Nq) gives zeros.
#pragma once
#include "attention/attention.h"

namespace tk::attention {

struct AttentionRowsArgs {
  HeadRows q, k;
  KeyBias key_bias;
  const int64_t* rows;
  int64_t rows_batch_stride;  // 0: the same rows of every sample
  int64_t picks;              // R
  const void* lse;
  float* out;
  Policy policy;
  Shape shape;
  DType dtype;
  double scale;
};

TK_DECLARE_OP(attention_rows, AttentionRowsArgs)

}  // namespace tk::attention
