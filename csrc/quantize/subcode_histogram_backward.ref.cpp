// SPDX-License-Identifier: Apache-2.0
#include "quantize/subcode_histogram_backward.h"

#include "quantize/subcodes.ref.h"

namespace tk::quantize::ref {

void subcode_histogram_backward(const SubcodeHistogramBackwardArgs& a) {
  const int64_t codes = int64_t{1} << a.bits;
  const double averaged = static_cast<double>(a.pool ? a.rows * a.groups : a.rows);
  for (int64_t i = 0; i < a.rows * a.groups; ++i) {
    const std::vector<double> p = bit_probabilities(a, i / a.groups, i % a.groups);
    const float* grad = a.grad + (a.pool ? 0 : i % a.groups * codes);
    for (int64_t j = 0; j < a.bits; ++j) {
      double sum = 0;
      for (int64_t code = 0; code < codes; ++code) {
        sum += (bit_of(a, code, j) ? 1 : -1) * static_cast<double>(grad[code]) * code_product(a, p, code, j);
      }
      const float value = static_cast<float>(a.slope * p[j] * (1 - p[j]) / averaged * sum);
      TK_FLOAT_SWITCH(a.dtype, T, static_cast<T*>(a.grad_x)[i * a.bits + j] = from_float<T>(value))
    }
  }
}

}  // namespace tk::quantize::ref
