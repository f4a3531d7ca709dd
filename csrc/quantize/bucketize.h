// SPDX-License-Identifier: Apache-2.0
// bucketize: index[i] = how many boundaries are below x_i, in float32; a value equal to a boundary is in the lower
// bucket, NaN in the last.
//
//   x           (N)  float32, float16 or bfloat16, contiguous
//   boundaries  (M)  float32, contiguous, ascending, none of them NaN; checked by the caller where the memory is on the
//                    host
//   index       (N)  int64 or uint8 (M up to 255), contiguous
#pragma once
#include "core/op.h"

namespace tk::quantize {

struct BucketizeArgs {
  const void* x;
  const float* boundaries;
  void* index;
  DType dtype;
  bool bytes;  // index is uint8
  int64_t count, boundary_count;
};

// !(x <= b), and not b < x: so NaN is above every boundary.
TK_INLINE int64_t bucket_of(float x, const float* boundaries, int64_t count) {
  int64_t low = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    if (!(x <= boundaries[low + half])) {
      low += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return low;
}

TK_DECLARE_OP(bucketize, BucketizeArgs)

}  // namespace tk::quantize
