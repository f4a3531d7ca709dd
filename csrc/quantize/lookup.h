// SPDX-License-Identifier: Apache-2.0
// lookup: out[q, n, :] = codes[q, index[q, n], :], a bit-exact copy; an index of -1 gives zeros.
//
//   codes  (Q, K, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   index  (Q, N)     int64, every value in [-1, K); checked by the caller where the memory is on the host
//   out    (Q, N, D)  dtype of codes, contiguous
//
// On a device an index outside [0, K) gives zeros: raising there would need a synchronisation.
//
// lookup_backward, the gradient of lookup (Q = 1 with G books) and of rvq_decode:
//   out[g, q, k, :] = sum of grad[g, n, :] over the n with index[g, n, q] = k, zeros where there is none
//
//   grad   (G, N, D)     float32, float16 or bfloat16; rows contiguous, any outer strides
//   index  (G, N, Q)     int64, contiguous; what is outside [0, K) names no code
//   out    (G, Q, K, D)  dtype of grad, contiguous; only the books q < layers get sums, the others are zero
//
// Sums run in float32 in ascending n, cut by N alone, and are rounded once.
#pragma once
#include "core/op.h"

namespace tk::quantize {

struct LookupArgs {
  const void* codes;
  const int64_t* index;
  void* out;
  DType dtype;
  int64_t books, rows, codes_count, width;  // Q, N, K, D
  int64_t book_stride, code_stride;         // in elements
};

struct LookupBackwardArgs {
  const void* grad;
  const int64_t* index;
  void* out;
  DType dtype;
  int64_t groups, books, layers, rows, codes_count, width;  // G, Q, layers, N, K, D
  int64_t grad_group_stride, grad_row_stride;               // in elements
};

TK_DECLARE_OP(lookup, LookupArgs)
TK_DECLARE_OP(lookup_backward, LookupBackwardArgs)

}  // namespace tk::quantize
