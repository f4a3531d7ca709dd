// SPDX-License-Identifier: Apache-2.0
// rotate_to: q as the image of x under a rotation and a scaling, so that a gradient reaches x through both (the
// rotation trick, Fifty et al., arXiv 2410.06424).
//
//   x, q  (N, D)  float32, float16 or bfloat16, contiguous
//   out   (N, D)  dtype of x, contiguous
//
// With n(v) = max(|v|, eps), u = x / n(x), v = q / n(q) and w = (u + v) / n(u + v):
//   out = |q| / n(x) * (x - 2 (x.w) w + 2 (x.u) v)
// which is q itself where neither is shorter than eps. As a combination of x and q, with a = |x| / n(x), b = |q| / n(q)
// and k = (|u + v|^2 + a^2 - b^2) / n(u + v)^2:
//   out = (1 - k) |q| / n(x) x + (2 a^2 - k) b q
//
// rotate_to_backward: the gradient for x, with u, v, w and the lengths held fixed:
//   grad_x = |q| / n(x) * (g - 2 (g.w) w + 2 (g.v) u)
//   grad   (N, D)  dtype of x, contiguous
//
// Sums run in float32. A row with a NaN or an infinity in x or q gives NaN. Norms outside [2^-60, 2^60] may lose digits
// or overflow, but a norm below eps counts as one of any size.
#pragma once
#include "core/op.h"

namespace tk::quantize {

struct RotateToArgs {
  const void* x;
  const void* q;
  void* out;
  DType dtype;
  int64_t rows, width;  // N, D
  float eps;
};

struct RotateToBackwardArgs {
  const void* grad;
  const void* x;
  const void* q;
  void* grad_x;
  DType dtype;
  int64_t rows, width;
  float eps;
};

TK_DECLARE_OP(rotate_to, RotateToArgs)
TK_DECLARE_OP(rotate_to_backward, RotateToBackwardArgs)

}  // namespace tk::quantize
