// SPDX-License-Identifier: Apache-2.0
// sign_unpack: the channels that sign_pack made ids of, as +scale where a bit is 1 and -scale where it is 0.
//
//   ids  (N, G)  int64, contiguous, every value in [0, 2^width of its group); checked by the caller where the memory is
//                on the host
//   x    (N, C)  float32, float16 or bfloat16, contiguous
#pragma once
#include "quantize/sign_groups.h"

namespace tk::quantize {

struct SignUnpackArgs {
  const int64_t* ids;
  void* x;
  DType dtype;
  int64_t rows;
  float scale;
  SignGroups split;
};

TK_DECLARE_OP(sign_unpack, SignUnpackArgs)

}  // namespace tk::quantize
