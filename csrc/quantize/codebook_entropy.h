// SPDX-License-Identifier: Apache-2.0
// codebook_entropy: how sure rows are of their code, and how evenly codes are used, both softly. The N x K matrix of
// probabilities is never stored. With s = x_n.c_k (dot), -|x_n - c_k|^2 (l2) or x_n.c_k / (|x_n| |c_k|) (cosine; of a
// zero vector 0):
//
//   p_nk         = exp(z_nk - lse_n),  z_nk = inv_temperature * s(x_n, c_k),  lse_n = log sum_k exp(z_nk)
//   entropy_n    = -sum_k p_nk log(max(p_nk, log_floor) + log_add); exact where both are 0, with 0 log 0 = 0
//   mean_prob_k  = sum_n weight_n p_nk / sum_n weight_n
//
//   x          (Q, N, D)  float32, float16 or bfloat16; rows contiguous, any outer strides (a book stride of 0 gives
//   all
//                         books the same rows)
//   codes      (Q, K, D)  dtype of x; likewise; 1 <= K < 2^31
//   weight     (Q, N)     float32, rows contiguous; null stands for ones
//   entropy    (Q, N)     float32
//   mean_prob  (Q, K)     float32; zeros where the weights add up to 0, or N is 0
//   lse        (Q, N)     float32
//
// Sums are float32 or better. A NaN in a row makes its entropy and lse NaN, and mean_prob of its book unless its weight
// is 0: such a row has no share in it, whatever it holds. A code that is not finite spoils every row of its book.
#pragma once
#include "core/metric.h"
#include "core/op.h"

namespace tk::quantize {

struct CodebookEntropyArgs {
  const void* x;
  const void* codes;
  const float* weight;
  float* entropy;
  float* mean_prob;
  float* lse;
  DType dtype;
  Metric metric;
  int64_t books, rows, codes_count, width;                           // Q, N, K, D
  int64_t x_book_stride, x_row_stride, c_book_stride, c_row_stride;  // in elements
  int64_t weight_book_stride;
  float inv_temperature, log_add, log_floor;
};

TK_DECLARE_OP(codebook_entropy, CodebookEntropyArgs)

}  // namespace tk::quantize
