// SPDX-License-Identifier: Apache-2.0
#include "quantize/subcode_histogram.h"

#include <vector>

#include "quantize/subcodes.ref.h"

namespace tk::quantize::ref {

void subcode_histogram(const SubcodeHistogramArgs& a) {
  const int64_t codes = int64_t{1} << a.bits;
  const int64_t size = a.pool ? codes : a.groups * codes;
  std::vector<double> sum(size);
  for (int64_t i = 0; i < a.rows * a.groups; ++i) {
    const std::vector<double> p = bit_probabilities(a, i / a.groups, i % a.groups);
    for (int64_t code = 0; code < codes; ++code) {
      sum[(a.pool ? 0 : i % a.groups * codes) + code] += code_product(a, p, code, -1);
    }
  }
  const int64_t averaged = a.pool ? a.rows * a.groups : a.rows;
  for (int64_t i = 0; i < size; ++i) {
    a.histogram[i] = averaged == 0 ? 0.0f : static_cast<float>(sum[i] / static_cast<double>(averaged));
  }
}

}  // namespace tk::quantize::ref
