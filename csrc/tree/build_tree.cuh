// SPDX-License-Identifier: Apache-2.0
// One warp a sequence takes 32 nodes at a time, a node a lane. A parent comes before its children: it is in an earlier
// group of 32, or in this one, where tokens pass from lane to lane, a level of the tree a round.
#pragma once
#include "core/gpu.cuh"
#include "tree/build_tree.h"

namespace tk::tree::gpu {

// How many smaller nodes have the parent of node i.
__device__ __forceinline__ int64_t smaller_siblings(const int64_t* parents, int64_t i) {
  int64_t count = 0;
  for (int64_t j = 1; j < i; ++j) count += parents[j] == parents[i];
  return count;
}

template <class Unused>
__global__ void __launch_bounds__(32) build_tree_kernel(BuildTreeArgs a) {
  const int64_t b = blockIdx.x;
  const int lane = threadIdx.x;
  const int64_t* parents = a.parents.nodes + b * a.parents.batch_stride;
  int64_t* tokens = a.tokens + b * a.nodes;
  for (int64_t first = 0; first < a.nodes; first += 32) {
    const int64_t i = first + lane;
    const int64_t parent = i > 0 && i < a.nodes ? parents[i] : -1;
    const bool child = parent >= 0 && parent < i;
    int64_t rank = 0;
    if (child) rank = a.rank ? a.rank[b * a.rank_batch_stride + i] : smaller_siblings(parents, i);
    int64_t token = i == 0 ? a.root[b] : -1;
    if (child && parent < first) token = follower(a, tokens[parent], rank);
    bool waits = child && parent >= first;
    const int from = waits ? static_cast<int>(parent - first) : lane;
    unsigned waiting = __ballot_sync(kAllLanes, waits);
    while (waiting) {
      const int64_t above = __shfl_sync(kAllLanes, token, from);
      if (waits && !(waiting >> from & 1u)) {
        token = follower(a, above, rank);
        waits = false;
      }
      waiting = __ballot_sync(kAllLanes, waits);
    }
    if (i < a.nodes) tokens[i] = token;
    __syncwarp();
  }
}

}  // namespace tk::tree::gpu
