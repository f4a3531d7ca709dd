// SPDX-License-Identifier: Apache-2.0
// One warp a node. It writes unless a later node has the same token: nobody writes a row twice.
#pragma once
#include "core/gpu.cuh"
#include "tree/update_adjacency.h"

namespace tk::tree::gpu {

constexpr int kUpdateThreads = 256;

template <class Unused>
__global__ void __launch_bounds__(kUpdateThreads) update_adjacency_kernel(UpdateAdjacencyArgs a) {
  const int lane = threadIdx.x % 32;
  const int64_t node = (int64_t{blockIdx.x} * kUpdateThreads + threadIdx.x) / 32;
  if (node >= a.nodes) return;
  const int64_t token = a.tokens[node];
  if (token < 0 || token >= a.vocabulary) return;
  for (int64_t after = node + 1; after < a.nodes; after += 32) {
    const bool same = after + lane < a.nodes && a.tokens[after + lane] == token;
    if (__any_sync(kAllLanes, same)) return;
  }
  for (int64_t k = lane; k < a.count; k += 32) write_candidate(a, node, k);
}

}  // namespace tk::tree::gpu
