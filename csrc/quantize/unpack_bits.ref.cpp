// SPDX-License-Identifier: Apache-2.0
#include "quantize/unpack_bits.h"

namespace tk::quantize::ref {

void unpack_bits(const UnpackBitsArgs& a) {
  const int64_t row_bytes = packed_bytes(a.width, a.bits);
  for (int64_t i = 0; i < a.rows * a.width; ++i) a.ids[i] = 0;
  for (int64_t n = 0; n < a.rows; ++n) {
    for (int64_t k = 0; k < a.width * a.bits; ++k) {
      const int64_t bit = a.bytes[n * row_bytes + k / 8] >> k % 8 & 1;
      a.ids[n * a.width + k / a.bits] |= bit << k % a.bits;
    }
  }
}

}  // namespace tk::quantize::ref
