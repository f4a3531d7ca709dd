// SPDX-License-Identifier: Apache-2.0
#include "tree/update_adjacency.h"

namespace tk::tree::ref {

void update_adjacency(const UpdateAdjacencyArgs& a) {
  for (int64_t n = 0; n < a.nodes; ++n) {
    for (int64_t k = 0; a.tokens[n] >= 0 && k < a.count; ++k) write_candidate(a, n, k);
  }
}

}  // namespace tk::tree::ref
