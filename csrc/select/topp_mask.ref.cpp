// SPDX-License-Identifier: Apache-2.0
#include "select/topp_mask.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace tk::selection::ref {
namespace {

template <class T>
void keep_row(const ToppMaskArgs& a, int64_t row) {
  const auto n = static_cast<size_t>(a.from.width);
  const T* prob = score_row<T>(a.from, row);
  std::vector<float> share(n);
  bool whole = a.limit == kNoLimit;
  for (size_t j = 0; j < n; ++j) {
    const float mass = to_float(prob[j]) * (a.weight ? weight_row(a, row)[j] : 1.0f);
    whole |= std::isnan(mass);
    share[j] = cut_share(mass);
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return share[i] > share[j]; });
  int64_t mass = 0;
  for (size_t i = 0; i < n; ++i) {
    a.out[row * a.from.width + static_cast<int64_t>(order[i])] =
        whole || mass <= a.limit || static_cast<int64_t>(i) < a.forced;
    mass += mass_units(share[order[i]]);
  }
}

}  // namespace

void topp_mask(const ToppMaskArgs& a) {
  for (int64_t row = 0; row < a.from.rows; ++row) {
    TK_FLOAT_SWITCH(a.from.dtype, T, keep_row<T>(a, row))
  }
}

}  // namespace tk::selection::ref
