// SPDX-License-Identifier: Apache-2.0
// scatter_rows: out[b, index[b, m], :] = y[b, m, :], a bit-exact copy. Where several m name one row the lowest m wins;
// rows that no m names are those of base, or zero.
//
//   y      (B, M, C)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   index  (B, M)     int64, every value in [0, N); checked by the caller where the memory is on the host
//   base   (B, N, C)  dtype of y, or null; rows contiguous, any outer strides
//   out    (B, N, C)  dtype of y, contiguous
//
// scatter_rows_backward: out[b, m, :] = grad[b, index[b, m], :] where m won its row, zero elsewhere: the gradient with
// respect to y. The gradient with respect to base is scatter_rows of zeros over grad. Each op is the other's gradient.
//
// On a device an index outside [0, N) is skipped: raising there would need a synchronisation.
#pragma once
#include "core/op.h"

namespace tk::merge {

struct ScatterRowsArgs {
  const void* y;
  const int64_t* index;
  const void* base;
  void* out;
  DType dtype;
  int64_t batch, rows, picks, width;                                         // B, N, M, C
  int64_t y_batch_stride, y_row_stride, base_batch_stride, base_row_stride;  // in elements
};

struct ScatterRowsBackwardArgs {
  const void* grad;
  const int64_t* index;
  void* out;
  DType dtype;
  int64_t batch, rows, picks, width;
  int64_t grad_batch_stride, grad_row_stride;
};

TK_DECLARE_OP(scatter_rows, ScatterRowsArgs)
TK_DECLARE_OP(scatter_rows_backward, ScatterRowsBackwardArgs)

}  // namespace tk::merge
