// SPDX-License-Identifier: Apache-2.0
#include "tree/build_tree.h"

#include <algorithm>

namespace tk::tree::ref {

void build_tree(const BuildTreeArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t* parents = a.parents.nodes + b * a.parents.batch_stride;
    int64_t* tokens = a.tokens + b * a.nodes;
    tokens[0] = a.root[b];
    for (int64_t i = 1; i < a.nodes; ++i) {
      const int64_t among = std::count(parents, parents + i, parents[i]);
      const int64_t rank = a.rank ? a.rank[b * a.rank_batch_stride + i] : among;
      tokens[i] = parents[i] < 0 ? -1 : follower(a, tokens[parents[i]], rank);
    }
  }
}

}  // namespace tk::tree::ref
