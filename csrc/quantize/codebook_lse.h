// SPDX-License-Identifier: Apache-2.0
// codebook_lse: the best code of every row and the normaliser of its softmax over all codes, in one pass; the N x K
// matrix of scores is never stored. With s and z as in codebook_entropy:
//
//   lse[n] = log sum_k exp(z_nk)    index[n] = argmax_k s(x_n, c_k)    best[n] = s(x_n, c_index)
//
//   x          (Q, N, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   codes      (Q, K, D)  dtype of x; likewise; 1 <= K < 2^31
//   lse, best  (Q, N)     float32
//   index      (Q, N)     int64
//
// Equal scores go to the lowest index; equal codes have equal scores, bit for bit. best is at most 0 for l2. A row with
// a NaN, or that meets a code that is not finite, has lse and best NaN and index 0.
#pragma once
#include "core/metric.h"
#include "core/op.h"

namespace tk::quantize {

struct CodebookLseArgs {
  const void* x;
  const void* codes;
  float* lse;
  int64_t* index;
  float* best;
  DType dtype;
  Metric metric;
  int64_t books, rows, codes_count, width;                           // Q, N, K, D
  int64_t x_book_stride, x_row_stride, c_book_stride, c_row_stride;  // in elements
  float inv_temperature;
};

TK_DECLARE_OP(codebook_lse, CodebookLseArgs)

}  // namespace tk::quantize
