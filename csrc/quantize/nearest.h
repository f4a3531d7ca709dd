// SPDX-License-Identifier: Apache-2.0
// nearest: for every row its nearest code, and on request the second; the N x K matrix of scores is never stored.
//
//   x             (Q, N, D)  float32, float16 or bfloat16; rows contiguous, any outer strides (a book
//                            stride of 0 searches all books by the same rows)
//   codes         (Q, K, D)  dtype of x; likewise; 1 <= K < 2^31
//   index         (Q, N)     int64
//   best          (Q, N)     float32
//   second        (Q, N)     int64, or null: not wanted
//   second_best   (Q, N)     float32, null where second is
//
// l2:     index[n] = argmin_k |x_n - c_k|^2, best[n] = max(0, |x_n|^2 + |c_k|^2 - 2 x_n.c_k)
// cosine: index[n] = argmax_k x_n.c_k / (|x_n| |c_k|), best[n] = that cosine; a zero vector has cosine 0
// dot:    index[n] = argmax_k x_n.c_k, best[n] = that product
//
// second is the nearest of the other codes, by the same rules; where no other finite code exists it is -1 and
// second_best NaN.
//
// Products and norms are summed in float32; the lowest index wins a tie. A code that is not finite is never chosen. A
// row that is not finite, or meets no finite code, has index 0 and best NaN. "Not finite" means a NaN or an infinity,
// and for l2 and dot also a squared norm that overflows float32. Vectors with a norm outside [2^-60, 2^60] may lose
// digits or overflow.
#pragma once
#include "core/metric.h"
#include "core/op.h"

namespace tk::quantize {

struct NearestArgs {
  const void* x;
  const void* codes;
  int64_t* index;
  float* best;
  int64_t* second;
  float* second_best;
  DType dtype;
  Metric metric;
  int64_t books, rows, codes_count, width;  // Q, N, K, D
  int64_t x_book_stride, x_row_stride;      // in elements
  int64_t c_book_stride, c_row_stride;
};

TK_DECLARE_OP(nearest, NearestArgs)

}  // namespace tk::quantize
