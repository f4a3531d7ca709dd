// SPDX-License-Identifier: Apache-2.0
// fsq_decode: the codes of an index of fsq_encode, bit for bit those that fsq_encode gave (quantize/grid.h):
//   level_nd = index[n] // prod_{e < d} L_e mod L_d
//
//   index  (N)     int64, every value in [0, prod L); checked by the caller where the memory is on the host
//   codes  (N, D)  float32, float16 or bfloat16, contiguous
#pragma once
#include "core/op.h"
#include "quantize/grid.h"

namespace tk::quantize {

struct FsqDecodeArgs {
  const int64_t* index;
  void* codes;
  DType dtype;
  int64_t rows;
  Grid grid;
};

TK_DECLARE_OP(fsq_decode, FsqDecodeArgs)

}  // namespace tk::quantize
