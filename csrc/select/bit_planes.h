// SPDX-License-Identifier: Apache-2.0
// Rows of whole numbers in two planes, and how a row of floats becomes one (our reconstruction: the paper states
// neither the granularity of the scale nor the rounding).
//
//   most  = 2^(msb + lsb - 1) - 1
//   scale = max_d |x[d]| / most, in float32
//   n[d]  = x[d] / scale in float32, rounded half to even, within [-most, most]
//   high  = n >> lsb, rounded down: the msb upper bits of the two's complement, an int8
//   low   = n - (high << lsb), in [0, 2^lsb)
//
// Two low values a byte: channel 2i in bits 0 to 3 of byte i, channel 2i + 1 in bits 4 to 7 (zero where there is none).
// A row of zeros, or one so small that its scale underflows, has scale 0 and planes of zeros; a row with a NaN or an
// infinity has scale NaN and planes of zeros. Every backend gives the same bits.
#pragma once
#include "core/dtype.h"

namespace tk::selection {

struct PlaneBits {
  int high, low;  // msb in [2, 8], lsb in [0, 4]
};

TK_INLINE float most_of(PlaneBits bits) { return static_cast<float>((1 << (bits.high + bits.low - 1)) - 1); }

// Bytes of a row of low values.
TK_INLINE int64_t low_bytes(int64_t width, int low_bits) { return low_bits > 0 ? (width + 1) / 2 : 0; }

TK_INLINE float scale_of(float largest, float most) {
  return largest < __builtin_inff() ? largest / most : __builtin_nanf("");
}

// Adding and subtracting 1.5 * 2^23 rounds to an integer.
TK_INLINE int32_t whole_number(float x, float scale, float most) {
  if (!(scale > 0.0f)) return 0;
  const float ratio = x / scale;
  const float rounded = (ratio + 12582912.0f) - 12582912.0f;
  return static_cast<int32_t>(rounded > most ? most : rounded < -most ? -most : rounded);
}

TK_INLINE int32_t low_value(const uint8_t* low, int64_t d) { return low[d / 2] >> (d % 2 * 4) & 15; }

}  // namespace tk::selection
