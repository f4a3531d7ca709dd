// SPDX-License-Identifier: Apache-2.0
// rope_gather: out[b,h,n] = R(n) x[b,h,index[b,n]], rows picked by index and turned by the rotary embedding of where
// they go. R(n) acts on the pairs (d, d + D/2):
//   out[d]       = x[d] * cos[n,d] - x[d + D/2] * sin[n,d]
//   out[d + D/2] = x[d + D/2] * cos[n,d + D/2] + x[d] * sin[n,d + D/2]       for d < D/2
//
//   x         (B, H, U, D)   float32, float16 or bfloat16; rows contiguous, any outer strides
//   index     (B, N)         int64 in [0, U), batch stride 0 shares it; on a device another value gives zeros
//   cos, sin  (B, N, D)      float32, rows contiguous, batch stride 0 shares them; both null: nothing is turned
//   out       (B, H, N, D)   dtype of x, contiguous
//
// Arithmetic in float32, rounded once. Its adjoint is rope_scatter.
#pragma once
#include "attention/attention.h"

namespace tk::attention {

struct RopeTable {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t cos_batch_stride = 0, cos_row_stride = 0, sin_batch_stride = 0, sin_row_stride = 0;
};

struct RopeIndex {
  const int64_t* data;
  int64_t batch_stride;
};

struct RopeGatherArgs {
  HeadRows x;
  RopeIndex index;
  RopeTable table;
  void* out;
  DType dtype;
  int64_t batch, heads, rows, picks, width;  // B, H, U, N, D
};

TK_DECLARE_OP(rope_gather, RopeGatherArgs)

}  // namespace tk::attention
