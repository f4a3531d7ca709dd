// SPDX-License-Identifier: Apache-2.0
// fsq_encode_backward: the straight-through gradient of the codes of fsq_encode, as if nothing were rounded:
//   grad_z = grad * slope * (1 - t^2)   t = tanh(z + s); slope = h / (L // 2), symmetric: 1 (quantize/grid.h)
// and for a hard clamp grad * slope where z + s is in [-1, 1], else 0 (NaN too). In float32, rounded once.
//
//   grad, z, grad_z  (N, D)  of one dtype, float32, float16 or bfloat16, contiguous
//
// NaN propagates where there is no hard clamp.
#pragma once
#include "core/op.h"
#include "quantize/grid.h"

namespace tk::quantize {

struct FsqEncodeBackwardArgs {
  const void* grad;
  const void* z;
  void* grad_z;
  DType dtype;
  int64_t rows;
  Grid grid;
};

TK_INLINE float fsq_gradient(const Grid& g, int d, float grad, float z) {
  const float x = z + g.shift[d];
  if (g.hard_clamp) return x >= -1.0f && x <= 1.0f ? grad * grid_slope(g, d) : 0.0f;
  const float t = tanh_of(x);
  return grad * grid_slope(g, d) * ((1.0f - t) * (1.0f + t));
}

TK_DECLARE_OP(fsq_encode_backward, FsqEncodeBackwardArgs)

}  // namespace tk::quantize
