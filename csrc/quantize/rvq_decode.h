// SPDX-License-Identifier: Apache-2.0
// rvq_decode: out[g, n, :] = sum over the layers q of codes[g, q, index[g, n, q], :], in ascending q, accumulated in
// float32 and rounded once. An index of -1 contributes nothing; only the first `layers` books are read.
//
//   index  (G, N, Q)     int64, contiguous, every value in [-1, K); checked by the caller where the memory is on the
//                        host. On a device what is outside [0, K) contributes nothing.
//   codes  (G, Q, K, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   out    (G, N, D)     dtype of codes, contiguous
//
// The sum starts with the first code, so that one layer is a bit-exact copy; a row without any is zero.
#pragma once
#include "core/op.h"

namespace tk::quantize {

struct RvqDecodeArgs {
  const int64_t* index;
  const void* codes;
  void* out;
  DType dtype;
  int64_t groups, rows, books, layers, codes_count, width;  // G, N, Q, layers, K, D
  int64_t group_stride, book_stride, code_stride;           // of codes, in elements
};

TK_DECLARE_OP(rvq_decode, RvqDecodeArgs)

}  // namespace tk::quantize
