// SPDX-License-Identifier: Apache-2.0
#include "attention/pack_ancestors.h"

namespace tk::attention::ref {

void pack_ancestors(const PackAncestorsArgs& a) {
  const int64_t words = (a.nodes + 63) / 64;
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t w = 0; w < words; ++w) a.words[r * words + w] = 0;
    for (int64_t n = 0; n < a.nodes; ++n) {
      if (a.seen[r * a.row_stride + n]) a.words[r * words + n / 64] |= uint64_t{1} << (n % 64);
    }
  }
}

}  // namespace tk::attention::ref
