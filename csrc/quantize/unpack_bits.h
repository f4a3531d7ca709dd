// SPDX-License-Identifier: Apache-2.0
// unpack_bits: the ids that pack_bits made a string of bits of. What fills up the last byte of a row is not looked at.
//
//   bytes  (N, ceil(M bits / 8))  uint8, contiguous
//   ids    (N, M)  int64, contiguous
#pragma once
#include "quantize/pack_bits.h"

namespace tk::quantize {

struct UnpackBitsArgs {
  const uint8_t* bytes;
  int64_t* ids;
  int64_t rows, width;  // N, M
  int bits;
};

TK_DECLARE_OP(unpack_bits, UnpackBitsArgs)

}  // namespace tk::quantize
