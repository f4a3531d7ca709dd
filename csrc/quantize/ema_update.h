// SPDX-License-Identifier: Apache-2.0
// ema_update: what a batch adds to the moving averages of a codebook.
//   counts[q, k] = how many n have index[q, n] = k,   sums[q, k] = the sum of their x[q, n]
//
//   x       (Q, N, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   index   (Q, N)     int64, contiguous, every value in [-1, K); -1 belongs to no code; checked by the caller where
//                      the memory is on the host, and on a device any other value belongs to no code either
//   counts  (Q, K)     int64, contiguous
//   sums    (Q, K, D)  float32, contiguous; zeros for a code that nothing chose
//
// Sums run in float32 in ascending n, cut by N alone: the same bits for any number of threads. A NaN reaches the sum of
// its code only.
#pragma once
#include "core/op.h"

namespace tk::quantize {

struct EmaUpdateArgs {
  const void* x;
  const int64_t* index;
  int64_t* counts;
  float* sums;
  DType dtype;
  int64_t books, rows, codes, width;    // Q, N, K, D
  int64_t x_book_stride, x_row_stride;  // in elements
};

TK_DECLARE_OP(ema_update, EmaUpdateArgs)

}  // namespace tk::quantize
