// SPDX-License-Identifier: Apache-2.0
// How rows of ids of equal width become strings of bytes: eight ids are `bits` whole bytes. Rows that end on a byte
// follow each other as one. Included by *.simd.inc.
#pragma once
#include "quantize/pack_bits.h"

namespace tk::quantize {
namespace {

struct BitRows {
  int64_t rows, width;
};

TK_INLINE BitRows join_rows(int64_t rows, int64_t width, int bits) {
  if (width * bits % 8 == 0) return {1, rows * width};
  return {rows, width};
}

// Calls Body<bits> for bits in [1, 16].
template <template <int> class Body, int bits = 1, class... Args>
TK_INLINE void by_width(int wanted, const Args&... args) {
  if constexpr (bits <= kMostPackedBits) {
    if (wanted == bits) return Body<bits>::run(args...);
    by_width<Body, bits + 1>(wanted, args...);
  }
}

}  // namespace
}  // namespace tk::quantize
