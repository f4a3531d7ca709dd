// SPDX-License-Identifier: Apache-2.0
#include "quantize/adc_scan.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace tk::quantize::ref {
namespace {

template <class C>
float table_sum(const AdcScanArgs& a, const float* tables, int64_t n) {
  float sum = 0;
  for (int64_t m = 0; m < a.codes.parts; ++m) sum += tables[m * a.codes_count + row_codes<C>(a.codes, n)[m]];
  return sum;
}

template <class C>
void scan_query(const AdcScanArgs& a, int64_t b) {
  std::vector<float> sums(static_cast<size_t>(a.codes.rows));
  for (size_t n = 0; n < sums.size(); ++n) {
    sums[n] = table_sum<C>(a, a.tables + b * a.codes.parts * a.codes_count, static_cast<int64_t>(n));
  }
  std::vector<size_t> order(sums.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) {
    if (std::isnan(sums[i]) || std::isnan(sums[j])) return !std::isnan(sums[i]) && std::isnan(sums[j]);
    return a.largest ? sums[i] > sums[j] : sums[i] < sums[j];
  });
  for (int64_t i = 0; i < a.k; ++i) {
    const size_t n = order[static_cast<size_t>(i)];
    a.index[b * a.k + i] = static_cast<int64_t>(n);
    a.value[b * a.k + i] = sums[n];
  }
}

}  // namespace

void adc_scan(const AdcScanArgs& a) {
  for (int64_t b = 0; b < a.queries; ++b) TK_CODE_SWITCH(a.codes.dtype, C, scan_query<C>(a, b))
}

}  // namespace tk::quantize::ref
