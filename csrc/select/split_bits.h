// SPDX-License-Identifier: Apache-2.0
// split_bits: rows of floats as whole numbers of msb + lsb bits in two planes; see bit_planes.h for the rule.
//
//   x      (B, H, N, D)          float32, float16 or bfloat16; rows contiguous, any outer strides
//   high   (B, H, N, D)          int8, contiguous
//   low    (B, H, N, (D+1) / 2)  uint8, contiguous; no bytes for lsb = 0
//   scale  (B, H, N)             float32, contiguous; one a row, so that a cache grows without being quantised again
#pragma once
#include "core/head_row.h"
#include "core/op.h"
#include "select/bit_planes.h"

namespace tk::selection {

struct SplitBitsArgs {
  HeadRows x;
  int8_t* high;
  uint8_t* low;
  float* scale;
  int64_t batch, heads, rows, width;
  PlaneBits bits;
  DType dtype;
};

template <class T>
TK_INLINE const T* row_of(const SplitBitsArgs& a, int64_t row) {
  return head_row<T>(a.x, row / a.rows / a.heads, row / a.rows % a.heads, row % a.rows);
}

TK_DECLARE_OP(split_bits, SplitBitsArgs)

}  // namespace tk::selection
