// SPDX-License-Identifier: Apache-2.0
// gather_rows: out[b, m, :] = x[b, index[b, m], :], a bit-exact copy.
//
//   x      (B, N, C)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   index  (B, M)     int64, every value in [0, N); checked by the caller where the memory is on the host
//   out    (B, M, C)  dtype of x, contiguous
//
// The gradient with respect to x is scatter_add_rows(grad, index, N). On a device an index outside [0, N)
// gives a row of zeros: raising there would need a synchronisation.
#pragma once
#include "core/op.h"

namespace tk::merge {

struct GatherRowsArgs {
  const void* x;
  const int64_t* index;
  void* out;
  DType dtype;
  int64_t batch, tokens, picks, width;   // B, N, M, C
  int64_t x_batch_stride, x_row_stride;  // in elements
};

TK_DECLARE_OP(gather_rows, GatherRowsArgs)

}  // namespace tk::merge
