// SPDX-License-Identifier: Apache-2.0
#include "attention/fold_columns.h"

#include <vector>

namespace tk::attention::ref {

void fold_columns(const FoldColumnsArgs& a) {
  const int64_t width = width_of(a);
  const int64_t rows = a.batch * (a.over_heads ? 1 : a.heads);
  const int64_t heads = a.over_heads ? a.heads : 1;  // that one row adds up
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t b = a.over_heads ? r : r / a.heads;
    const int64_t* groups = by_groups(a) ? a.groups + b * a.groups_batch_stride : nullptr;
    std::vector<double> sum(width, 0.0);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t j = 0; j < a.keys; ++j) {
        const int64_t to = groups ? groups[j] : j;
        if (to >= 0) sum[to] += a.sums[(r * heads + h) * a.keys + j];
      }
    }
    for (int64_t c = 0; c < width; ++c) a.out[r * width + c] = static_cast<float>(sum[c]);
  }
}

}  // namespace tk::attention::ref
