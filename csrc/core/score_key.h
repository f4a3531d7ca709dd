// SPDX-License-Identifier: Apache-2.0
// Floats as integers in the order in which scores are chosen.
#pragma once
#include "core/dtype.h"

namespace tk {

constexpr uint32_t kNanKey = 1;  // -inf has 0x00800000

// Larger keys come first; equal scores have equal keys, -0 and +0 among them; NaN comes after every number. 0 is free.
TK_INLINE uint32_t score_key(float score) {
  const uint32_t bits = detail::bit_cast<uint32_t>(score);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return kNanKey;
  return bits >> 31 ? 0x80000000u - magnitude : 0x80000000u + magnitude;
}

}  // namespace tk
