// SPDX-License-Identifier: Apache-2.0
// The numbers of one row's rotation (quantize/rotate_to.h), the same on the host and on a device.
#pragma once
#include "core/dtype.h"

namespace tk::quantize {

// Below this |u + v|^2 is found from u + v itself: made of a product it would have no digits left.
constexpr float kNearlyOpposite = 0.5f;
// And below this the gradient, which depends on the direction of u + v, needs double precision.
constexpr float kOpposite = 0.01f;

struct Rotation {
  float inverse_x, inverse_q;  // 1 / n(x), 1 / n(q)
  float a2, b;                 // (|x| / n(x))^2, |q| / n(q)
  float scale;                 // |q| / n(x)
  float squares;               // |u + v|^2
};

TK_INLINE Rotation rotation_of(float norm_x, float norm_q, float product, float eps) {
  const bool short_x = norm_x < eps;
  const bool short_q = norm_q < eps;
  const float inverse_x = 1.0f / (short_x ? eps : norm_x);
  const float inverse_q = 1.0f / (short_q ? eps : norm_q);
  const float a = short_x ? norm_x * inverse_x : 1.0f;
  const float b = short_q ? norm_q * inverse_q : 1.0f;
  const float squares = a * a + b * b + 2.0f * (product * inverse_x * inverse_q);
  return {inverse_x, inverse_q, a * a, b, norm_q * inverse_x, squares};
}

TK_INLINE float clamped_squares(const Rotation& r, float eps) { return r.squares < eps * eps ? eps * eps : r.squares; }

// out = along_x x + along_q q
struct Combination {
  float along_x, along_q;
};

TK_INLINE Combination forward_of(const Rotation& r, float eps) {
  const float k = (r.squares + (r.a2 - r.b * r.b)) / clamped_squares(r, eps);
  return {(1.0f - k) * r.scale, (2.0f * r.a2 - k) * r.b};
}

// grad_x = scale (g + along_u u - along_sum (u + v)), of g.v and g.(u + v)
struct Reflection {
  float scale, along_u, along_sum;
};

TK_INLINE Reflection backward_of(const Rotation& r, float g_v, float g_sum, float eps) {
  return {r.scale, 2.0f * g_v, 2.0f * g_sum / clamped_squares(r, eps)};
}

}  // namespace tk::quantize
