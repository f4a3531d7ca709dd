// SPDX-License-Identifier: Apache-2.0
#include "tree/verify_greedy.h"

namespace tk::tree::ref {

void verify_greedy(const VerifyGreedyArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t* parents = a.parents.nodes + b * a.parents.batch_stride;
    const int64_t* tokens = a.tokens + b * a.nodes;
    const int64_t* target = a.target + b * a.nodes;
    int64_t* path = a.path + b * a.nodes;
    int64_t node = 0;
    int64_t length = 0;
    path[length++] = 0;
    for (int64_t child = 1; child < a.nodes; ++child) {
      if (parents[child] != node || tokens[child] != target[node]) continue;
      node = child;
      path[length++] = node;
    }
    a.accepted[b] = length - 1;
    a.bonus[b] = target[node];
    while (length < a.nodes) path[length++] = -1;
  }
}

}  // namespace tk::tree::ref
