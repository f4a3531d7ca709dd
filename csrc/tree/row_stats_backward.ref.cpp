// SPDX-License-Identifier: Apache-2.0
#include "tree/row_stats_backward.h"

#include <cmath>

namespace tk::tree::ref {
namespace {

template <class T>
void row_gradient(const RowStatsBackwardArgs& a, int64_t row) {
  const T* logits = static_cast<const T*>(a.logits) + row / a.rows * a.batch_stride + row % a.rows * a.row_stride;
  T* out = static_cast<T*>(a.out) + row * a.width;
  for (int64_t j = 0; j < a.width; ++j) {
    const double log_p = static_cast<double>(to_float(logits[j])) * a.inverse_temperature - a.lse[row];
    const double p = std::exp(log_p);
    const double slope = p == 0 ? 0 : a.slope[row] * log_p;
    out[j] = from_float<T>(static_cast<float>(p * (a.level[row] - slope) * a.inverse_temperature));
  }
}

}  // namespace

void row_stats_backward(const RowStatsBackwardArgs& a) {
  for (int64_t row = 0; row < a.batch * a.rows; ++row) {
    TK_FLOAT_SWITCH(a.dtype, T, row_gradient<T>(a, row))
  }
}

}  // namespace tk::tree::ref
