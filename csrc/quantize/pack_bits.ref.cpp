// SPDX-License-Identifier: Apache-2.0
#include "quantize/pack_bits.h"

namespace tk::quantize::ref {

void pack_bits(const PackBitsArgs& a) {
  const int64_t row_bytes = packed_bytes(a.width, a.bits);
  for (int64_t n = 0; n < a.rows; ++n) {
    uint8_t* row = a.bytes + n * row_bytes;
    for (int64_t k = 0; k < row_bytes; ++k) row[k] = 0;
    for (int64_t k = 0; k < a.width * a.bits; ++k) {
      const int64_t bit = a.ids[n * a.width + k / a.bits] >> k % a.bits & 1;
      row[k / 8] |= static_cast<uint8_t>(bit << k % 8);
    }
  }
}

}  // namespace tk::quantize::ref
