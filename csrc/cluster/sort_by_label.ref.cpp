// SPDX-License-Identifier: Apache-2.0
#include "cluster/sort_by_label.h"

#include <algorithm>
#include <numeric>

namespace tk::cluster::ref {

void sort_by_label(const SortByLabelArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t* labels = a.labels + b * a.tokens;
    int64_t* perm = a.perm + b * a.tokens;
    std::iota(perm, perm + a.tokens, int64_t{0});
    std::stable_sort(perm, perm + a.tokens, [=](int64_t i, int64_t j) { return labels[i] < labels[j]; });
    int64_t* offsets = a.offsets + b * (a.clusters + 1);
    std::fill(offsets, offsets + a.clusters + 1, int64_t{0});
    for (int64_t n = 0; n < a.tokens; ++n) ++offsets[labels[n] + 1];
    std::partial_sum(offsets, offsets + a.clusters + 1, offsets);
  }
}

}  // namespace tk::cluster::ref
