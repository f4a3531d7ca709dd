// SPDX-License-Identifier: Apache-2.0
// codebook_entropy_backward: the gradient of codebook_entropy and of codebook_lse. Probabilities are made again, tile
// by tile. With u = max(p, log_floor) + log_add and W = sum_n weight_n:
//
//   w_nk = grad_mean_k weight_n / W - grad_entropy_n (log u_nk + [p_nk >= log_floor] p_nk / u_nk)
//   g_nk = p_nk (w_nk - sum_j p_nj w_nj + grad_lse_n), the gradient of z_nk
//   grad_x_n = inv_temperature sum_k g_nk ds(x_n, c_k)/dx_n,  grad_codes_k = inv_temperature sum_n g_nk ds(x_n,
//   c_k)/dc_k
//
//   x, codes, weight    as given to codebook_entropy
//   lse                 (Q, N)     float32, its answer
//   grad_entropy        (Q, N)     float32, contiguous; null stands for zeros, as for the next two
//   grad_mean           (Q, K)     float32, contiguous
//   grad_lse            (Q, N)     float32, contiguous
//   grad_x              (Q, N, D)  dtype of x, contiguous, or null: not wanted
//   grad_codes          (Q, K, D)  likewise
//
// The gradient by a zero vector is 0 for cosine. Weights that add up to 0 give grad_mean no share. A NaN in a row makes
// its gradient and that of all codes NaN. Sums are float32 and in an order that depends on shapes alone.
#pragma once
#include "core/metric.h"
#include "core/op.h"

namespace tk::quantize {

struct CodebookEntropyBackwardArgs {
  const void* x;
  const void* codes;
  const float* weight;
  const float* lse;
  const float* grad_entropy;
  const float* grad_mean;
  const float* grad_lse;
  void* grad_x;
  void* grad_codes;
  DType dtype;
  Metric metric;
  int64_t books, rows, codes_count, width;                           // Q, N, K, D
  int64_t x_book_stride, x_row_stride, c_book_stride, c_row_stride;  // in elements
  int64_t weight_book_stride;
  float inv_temperature, log_add, log_floor;
};

TK_DECLARE_OP(codebook_entropy_backward, CodebookEntropyBackwardArgs)

}  // namespace tk::quantize
