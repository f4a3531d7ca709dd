// SPDX-License-Identifier: Apache-2.0
// fsq_encode: every dimension of a row rounded to its grid (quantize/grid.h), and the levels of the row as one number,
//   index[n] = sum_d level_nd * prod_{e < d} L_e
//
//   z      (N, D)  float32, float16 or bfloat16, contiguous; D the number of axes, 1 to 62
//   codes  (N, D)  dtype of z, contiguous
//   index  (N)     int64
//
// The product of all levels is below 2^63. Integers only: an index is exact, and the same on every backend.
#pragma once
#include "core/op.h"
#include "quantize/grid.h"

namespace tk::quantize {

struct FsqEncodeArgs {
  const void* z;
  void* codes;
  int64_t* index;
  DType dtype;
  int64_t rows;
  Grid grid;
};

TK_DECLARE_OP(fsq_encode, FsqEncodeArgs)

}  // namespace tk::quantize
