// SPDX-License-Identifier: Apache-2.0
#include "tree/compact_cache.h"

#include <vector>

namespace tk::tree::ref {

void compact_cache(const CompactCacheArgs& a) {
  const auto item = static_cast<int64_t>(item_size(a.dtype));
  const int64_t row_bytes = a.width * item;
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t nodes = path_nodes(a, b);
    std::vector<unsigned char> rows(static_cast<size_t>(nodes * row_bytes));
    for (int64_t i = 0; i < a.layers * a.groups; ++i) {
      auto* base =
          static_cast<unsigned char*>(a.cache) + (i / a.groups * a.layer_stride + i % a.groups * a.group_stride) * item;
      for (int64_t t = 0; t < nodes; ++t) {
        const int64_t from = cache_row(a, b, a.lengths[b] + a.path[b * a.nodes + t]);
        std::memcpy(rows.data() + t * row_bytes, base + from * item, static_cast<size_t>(row_bytes));
      }
      for (int64_t t = 0; t < nodes; ++t) {
        const int64_t to = cache_row(a, b, a.lengths[b] + t);
        std::memcpy(base + to * item, rows.data() + t * row_bytes, static_cast<size_t>(row_bytes));
      }
    }
    a.new_lengths[b] = a.lengths[b] + nodes;
  }
}

}  // namespace tk::tree::ref
