// SPDX-License-Identifier: Apache-2.0
#include "quantize/bit_entropy.h"

#include <algorithm>
#include <cmath>

namespace tk::quantize::ref {
namespace {

// H(1 / (1 + e^-z)) = log(1 + e^-z) + z e^-z / (1 + e^-z) for z >= 0, and H is even.
double entropy_at(double z) {
  const double size = std::min(std::fabs(z), 700.0);
  const double power = std::exp(-size);
  return z != z ? z : std::log1p(power) + size * power / (1 + power);
}

}  // namespace

void bit_entropy(const BitEntropyArgs& a) {
  for (int64_t n = 0; n < a.rows; ++n) {
    double sum = 0;
    TK_FLOAT_SWITCH(a.dtype, T, {
      const T* x = static_cast<const T*>(a.x) + n * a.width;
      for (int64_t d = 0; d < a.width; ++d) sum += entropy_at(static_cast<double>(a.slope) * to_float(x[d]));
    })
    a.entropy[n] = static_cast<float>(sum);
  }
}

}  // namespace tk::quantize::ref
