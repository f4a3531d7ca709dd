// SPDX-License-Identifier: Apache-2.0
// rope_scatter: out[b,h,u] = sum over the n with index[b,n] = u of R(n)^T x[b,h,n], the adjoint of rope_gather; with
// `mean`, divided by the number of such n. Terms add up in ascending n, in float32; a row nobody names is zero.
//
//   x         (B, H, N, D)   float32, float16 or bfloat16; rows contiguous, any outer strides
//   index     (B, N)         int64 in [0, U), batch stride 0 shares it; on a device other values are left out
//   cos, sin  as rope_gather; both null: nothing is turned
//   out       (B, H, U, D)   dtype of x, contiguous
#pragma once
#include "attention/rope_gather.h"

namespace tk::attention {

struct RopeScatterArgs {
  HeadRows x;
  RopeIndex index;
  RopeTable table;
  void* out;
  DType dtype;
  bool mean;
  int64_t batch, heads, rows, picks, width;  // B, H, U, N, D
};

TK_DECLARE_OP(rope_scatter, RopeScatterArgs)

}  // namespace tk::attention
