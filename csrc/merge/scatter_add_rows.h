// SPDX-License-Identifier: Apache-2.0
// scatter_add_rows: out[b, n, :] = sum over m with index[b, m] = n of weight[b, m] * y[b, m, :], in ascending m,
// accumulated in float32 and rounded once. A row that no m names is zero.
//
//   y       (B, M, C)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   index   (B, M)     int64, every value in [0, N); checked by the caller where the memory is on the host
//   weight  (B, M)     float32, contiguous, or null for ones
//   out     (B, N, C)  dtype of y, contiguous
//
// scatter_add_rows_backward, for the weighted form (without weights the gradient is gather_rows):
//   grad_y[b, m, :] = weight[b, m] * grad[b, index[b, m], :]
//   grad_weight[b, m] = sum over c of y[b, m, c] * grad[b, index[b, m], c], in float32
//
// On a device an index outside [0, N) is skipped: raising there would need a synchronisation.
#pragma once
#include "core/op.h"

namespace tk::merge {

struct ScatterAddRowsArgs {
  const void* y;
  const int64_t* index;
  const float* weight;
  void* out;
  DType dtype;
  int64_t batch, rows, picks, width;     // B, N, M, C
  int64_t y_batch_stride, y_row_stride;  // in elements
};

struct ScatterAddRowsBackwardArgs {
  const void* grad;
  const void* y;
  const int64_t* index;
  const float* weight;
  void* grad_y;
  float* grad_weight;
  DType dtype;
  int64_t batch, rows, picks, width;
  int64_t grad_batch_stride, grad_row_stride, y_batch_stride, y_row_stride;
};

TK_DECLARE_OP(scatter_add_rows, ScatterAddRowsArgs)
TK_DECLARE_OP(scatter_add_rows_backward, ScatterAddRowsBackwardArgs)

}  // namespace tk::merge
