// SPDX-License-Identifier: Apache-2.0
// rvq_encode: a stack of codebooks, each of which quantizes what those before it left over.
//
//   x          (G, N, D)     float32, float16 or bfloat16; rows contiguous, any outer strides (groups of channels of
//                            one array need no copy)
//   codes      (G, Q, K, D)  dtype of x; likewise; 1 <= K < 2^31
//   n_q        (G, N)        int64 in [0, Q]: layers of each row; group stride 0 for one count a row; null for `layers`
//   index      (G, N, Q)     int64, contiguous
//   quantized  (G, N, D)     float32, contiguous
//   error      (G, N, Q)     float32, contiguous
//
//   r_0 = x; for every layer q: index[q] = the code nearest to r_q (csrc/quantize/nearest.h), r_{q+1} = r_q - that
//   code, error[q] = |r_{q+1}|^2; quantized = the sum of the chosen codes in ascending q
//
// Everything is float32: the residual is exactly r - c, rounded once a layer, and quantized has the bits of rvq_decode
// of float32 codes. metric cosine searches by the angle and takes off the code as stored. A layer q >= n_q (or >=
// layers) has index -1 and error 0 and contributes nothing. The lowest index wins a tie. A code that is not finite is
// never chosen; a residual that is not finite, or meets no finite code, has index 0, and an error that is not finite is
// NaN. "Not finite" means a NaN, an infinity, or a squared norm that overflows float32.
#pragma once
#include "core/metric.h"
#include "core/op.h"

namespace tk::quantize {

struct RvqEncodeArgs {
  const void* x;
  const void* codes;
  const int64_t* n_q;
  int64_t* index;
  float* quantized;
  float* error;
  DType dtype;
  Metric metric;
  int64_t groups, rows, books, layers, codes_count, width;  // G, N, Q, layers, K, D
  int64_t x_group_stride, x_row_stride;                     // in elements
  int64_t c_group_stride, c_book_stride, c_row_stride;
  int64_t n_q_group_stride;
};

TK_DECLARE_OP(rvq_encode, RvqEncodeArgs)

}  // namespace tk::quantize
