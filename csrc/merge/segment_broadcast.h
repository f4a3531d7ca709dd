// SPDX-License-Identifier: Apache-2.0
// segment_broadcast: every token takes the row of its segment, a bit-exact copy.
//
//   out[b, n, :] = y[b, s(n), :]     or zeros where token n has no segment
//
//   y      (B, S, C)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   index  offsets (B, S + 1) or (S + 1), or ids (B, N) or (N) with values in [-1, S)
//   out    (B, N, C)  dtype of y, contiguous
//
// The gradient is segment_reduce in mode sum. On a device an id outside [0, S) gives a row of zeros; offsets must be
// valid.
#pragma once
#include "core/op.h"
#include "merge/segment_index.h"

namespace tk::merge {

struct SegmentBroadcastArgs {
  const void* y;
  SegmentIndex index;
  void* out;
  DType dtype;
  int64_t batch, tokens, segments, width;  // B, N, S, C
  int64_t y_batch_stride, y_row_stride;    // in elements
};

TK_DECLARE_OP(segment_broadcast, SegmentBroadcastArgs)

}  // namespace tk::merge
