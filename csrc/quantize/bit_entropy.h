// SPDX-License-Identifier: Apache-2.0
// bit_entropy: how sure the sign bits of a row are: entropy_n = sum_d H(1 / (1 + exp(-slope x_nd))), in nats, with
// H(p) = -p log p - (1 - p) log(1 - p).
//
//   x        (N, D)  float32, float16 or bfloat16; contiguous
//   entropy  (N)     float32, in [0, D log 2]
//
// Each term is exact to a few float32 roundings of itself at any slope, and 0 where it is saturated, at infinity too. A
// NaN makes its row NaN. D = 0 gives 0.
#pragma once
#include "core/op.h"

namespace tk::quantize {

struct BitEntropyArgs {
  const void* x;
  float* entropy;
  DType dtype;
  int64_t rows, width;  // N, D
  float slope;
};

TK_DECLARE_OP(bit_entropy, BitEntropyArgs)

}  // namespace tk::quantize
