// SPDX-License-Identifier: Apache-2.0
// segment_reduce: one row per segment of tokens.
//
//   sum   out[b, s, :] = sum over the tokens n of segment s of w[b, n] x[b, n, :]
//   mean  the same, divided by mass[b, s] = sum of w[b, n]
//   amax  out[b, s, c] = largest x[b, n, c]; takes no weight
//
//   x        (B, N, C)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   index    offsets (B, S + 1) or (S + 1), or ids (B, N) or (N) with values in [-1, S); -1 drops the token
//   weight   (B, N) float32, or null for 1 everywhere
//   out      (B, S, C)  dtype of x, contiguous
//   mass     (B, S) float32, or null; without weight the number of tokens
//
// Tokens add up in float32 in ascending order, in blocks of kSegmentBlock; the mass adds up in float64. An empty
// segment gives a row of zeros, and so does a mean over a mass of zero. NaN propagates in every mode; between +0 and
// -0 amax keeps the first. A segment of one token without weight is a bit-exact copy; of a NaN a device keeps
// only that it is one. On a device an id outside [-1, S) drops the token; offsets must be valid.
#pragma once
#include "core/op.h"
#include "merge/segment_index.h"

namespace tk::merge {

enum class SegmentMode : int32_t { mean, sum, amax };

struct SegmentReduceArgs {
  const void* x;
  SegmentIndex index;
  const float* weight;
  void* out;
  float* mass;
  DType dtype;
  SegmentMode mode;
  int64_t batch, tokens, segments, width;  // B, N, S, C
  int64_t x_batch_stride, x_row_stride;    // in elements
};

TK_DECLARE_OP(segment_reduce, SegmentReduceArgs)

}  // namespace tk::merge
