// SPDX-License-Identifier: Apache-2.0
// One warp a sequence looks at 32 nodes at a time: the first lane that holds the next node of the walk says so.
#pragma once
#include "core/gpu.cuh"
#include "tree/verify_greedy.h"

namespace tk::tree::gpu {

constexpr int kGreedyThreads = 128;

template <int threads>
__global__ void __launch_bounds__(threads) verify_greedy_kernel(VerifyGreedyArgs a) {
  const int64_t b = (int64_t{blockIdx.x} * threads + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (b >= a.batch) return;
  const int64_t* parents = a.parents.nodes + b * a.parents.batch_stride;
  const int64_t* tokens = a.tokens + b * a.nodes;
  const int64_t* target = a.target + b * a.nodes;
  int64_t* path = a.path + b * a.nodes;
  int64_t node = 0;
  int64_t length = 1;
  if (lane == 0) path[0] = 0;
  for (int64_t first = 0; first < a.nodes; first += 32) {
    const int64_t own = first + lane;
    const int64_t parent = own < a.nodes ? parents[own] : -1;
    const int64_t token = own < a.nodes ? tokens[own] : 0;
    while (true) {
      const bool next = own > node && parent == node && token == target[node];
      const unsigned found = __ballot_sync(kAllLanes, next);
      if (found == 0) break;
      node = first + __ffs(static_cast<int>(found)) - 1;
      if (lane == 0) path[length] = node;
      ++length;
    }
  }
  for (int64_t t = length + lane; t < a.nodes; t += 32) path[t] = -1;
  if (lane > 0) return;
  a.accepted[b] = length - 1;
  a.bonus[b] = target[node];
}

}  // namespace tk::tree::gpu
