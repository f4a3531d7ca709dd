// SPDX-License-Identifier: Apache-2.0
// Which rows look for their nearest codes, and what near means.
//
//   x      (Q, N, D)  float32, float16 or bfloat16; rows contiguous, any outer strides (a book stride of 0 searches
//                     all books by the same rows)
//   codes  (Q, K, D)  dtype of x; likewise; 1 <= K < 2^31
//
// l2:     the nearness of a pair is -|x - c|^2, reported is max(0, |x|^2 + |c|^2 - 2 x.c)
// cosine: x.c / (|x| |c|), and 0 where a vector is zero
// dot:    x.c
//
// Products and norms are summed in float32; among equally near codes the lowest index comes first. A code that is not
// finite is never chosen, and a row that is not finite finds none. "Not finite" means a NaN or an infinity, and for l2
// and dot also a squared norm that overflows float32. Vectors with a norm outside [2^-60, 2^60] may lose digits or
// overflow.
#pragma once
#include "core/dtype.h"
#include "core/metric.h"

namespace tk::quantize {

struct CodeSearch {
  const void* x;
  const void* codes;
  DType dtype;
  Metric metric;
  int64_t books, rows, codes_count, width;  // Q, N, K, D
  int64_t x_book_stride, x_row_stride;      // in elements
  int64_t c_book_stride, c_row_stride;
};

}  // namespace tk::quantize
