// SPDX-License-Identifier: Apache-2.0
#include "quantize/bit_entropy_backward.h"

#include <algorithm>
#include <cmath>

namespace tk::quantize::ref {
namespace {

// z p (1 - p)
double slope_at(double z) {
  const double size = std::min(std::fabs(z), 700.0);
  const double power = std::exp(-size);
  return z != z ? z : std::copysign(size * power / ((1 + power) * (1 + power)), z);
}

}  // namespace

void bit_entropy_backward(const BitEntropyBackwardArgs& a) {
  for (int64_t n = 0; n < a.rows; ++n) {
    TK_FLOAT_SWITCH(a.dtype, T, {
      const T* x = static_cast<const T*>(a.x) + n * a.width;
      T* out = static_cast<T*>(a.grad_x) + n * a.width;
      const double slope = a.slope;
      for (int64_t d = 0; d < a.width; ++d) {
        out[d] = from_float<T>(static_cast<float>(-a.grad[n] * slope * slope_at(slope * to_float(x[d]))));
      }
    })
  }
}

}  // namespace tk::quantize::ref
