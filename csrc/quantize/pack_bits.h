// SPDX-License-Identifier: Apache-2.0
// pack_bits: the ids of a row as a string of bits, each id `bits` wide and its lowest bit first; bit k of the string is
// bit k % 8 of byte k // 8. The last byte of a row is filled up with zeros.
//
//   ids    (N, M)  int64, contiguous, every value in [0, 2^bits); checked by the caller where the memory is on the host
//   bytes  (N, ceil(M bits / 8))  uint8, contiguous
#pragma once
#include "core/op.h"

namespace tk::quantize {

constexpr int kMostPackedBits = 16;

struct PackBitsArgs {
  const int64_t* ids;
  uint8_t* bytes;
  int64_t rows, width;  // N, M
  int bits;
};

TK_INLINE int64_t packed_bytes(int64_t width, int bits) { return (width * bits + 7) / 8; }

TK_DECLARE_OP(pack_bits, PackBitsArgs)

}  // namespace tk::quantize
