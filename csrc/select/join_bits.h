// SPDX-License-Identifier: Apache-2.0
// join_bits: out = ((high << lsb) + low) * scale, the rows that split_bits took apart (bit_planes.h).
//
//   high   (B, H, N, D)          int8; rows contiguous, any outer strides
//   low    (B, H, N, (D+1) / 2)  uint8; rows contiguous, any outer strides; or null: as if zero
//   scale  (B, H, N)             float32, contiguous, or null for ones: the whole numbers themselves
//   out    (B, H, N, D)          float32, contiguous
#pragma once
#include "core/head_row.h"
#include "core/op.h"
#include "select/bit_planes.h"

namespace tk::selection {

struct JoinBitsArgs {
  HeadRows high, low;
  const float* scale;
  float* out;
  int64_t batch, heads, rows, width;
  int low_bits;
};

// Planes of one row.
struct JoinedRow {
  const int8_t* high;
  const uint8_t* low;
  float scale;
};

TK_INLINE JoinedRow joined_row(const JoinBitsArgs& a, int64_t row) {
  const int64_t b = row / a.rows / a.heads, h = row / a.rows % a.heads, n = row % a.rows;
  return {head_row<int8_t>(a.high, b, h, n), a.low.data ? head_row<uint8_t>(a.low, b, h, n) : nullptr,
          a.scale ? a.scale[row] : 1.0f};
}

TK_INLINE float joined(const JoinedRow& row, int64_t d, int low_bits) {
  const int32_t low = row.low ? low_value(row.low, d) : 0;
  return static_cast<float>(row.high[d] * (1 << low_bits) + low) * row.scale;
}

TK_DECLARE_OP(join_bits, JoinBitsArgs)

}  // namespace tk::selection
