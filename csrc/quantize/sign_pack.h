// SPDX-License-Identifier: Apache-2.0
// sign_pack: the signs of the channels of a row, as one number for every group of channels.
//   ids[n, g] = sum over the channels j of group g of bit_j 2^j, or 2^(width - 1 - j) where the highest bit comes first
//   bit = 1 where x > 0; zero of either sign and NaN give 0
//
//   x    (N, C)  float32, float16 or bfloat16, contiguous
//   ids  (N, G)  int64, contiguous
//
// Groups are neighbouring channels, 1 to 63 of them. Integers only: an id is exact.
#pragma once
#include "quantize/sign_groups.h"

namespace tk::quantize {

struct SignPackArgs {
  const void* x;
  int64_t* ids;
  DType dtype;
  int64_t rows;
  SignGroups split;
};

TK_DECLARE_OP(sign_pack, SignPackArgs)

}  // namespace tk::quantize
