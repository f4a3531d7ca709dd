// SPDX-License-Identifier: Apache-2.0
// permute_rows:          out[b, h, n, :] = x[b, h, perm[b, h, n], :]
// inverse_permute_rows:  out[b, h, perm[b, h, n], :] = x[b, h, n, :]
//
//   x     (B, H, N, C)  float32, float16 or bfloat16; rows contiguous, any outer strides. (B, N, C) is H = 1.
//   perm  (B, H, N)     int64, a permutation of [0, N) in every row; checked by the caller where the memory is on the
//   host out   (B, H, N, C)  dtype of x, contiguous
//
// Bit-exact copies; each op undoes the other and is its gradient. On a device, where nobody can raise, permute_rows
// gives a row of zeros for an index outside [0, N) and inverse_permute_rows skips it; rows that no index names then
// keep what was in memory, and of several rows with one index any one is kept.
#pragma once
#include "core/op.h"

namespace tk::cluster {

struct PermuteRowsArgs {
  const void* x;
  const int64_t* perm;
  void* out;
  DType dtype;
  int64_t batch, heads, tokens, width;            // B, H, N, C
  int64_t batch_stride, head_stride, row_stride;  // of x, in elements
};

TK_DECLARE_OP(permute_rows, PermuteRowsArgs)
TK_DECLARE_OP(inverse_permute_rows, PermuteRowsArgs)

}  // namespace tk::cluster
