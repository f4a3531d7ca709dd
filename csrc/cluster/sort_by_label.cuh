// SPDX-License-Identifier: Apache-2.0
// The sort itself is that of merge's segments; its 32-bit order is widened here.
#pragma once
#include "cluster/sort_by_label.h"
#include "merge/segment_members.cuh"

namespace tk::cluster::gpu {

constexpr int kWidenThreads = 256;

// Tokens without a label leave the last positions of a row unwritten: -1.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) widen_order_kernel(const int* order, const int64_t* offsets, int64_t* perm,
                                                               int64_t total, int64_t tokens, int64_t clusters) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= total) return;
  const bool placed = i % tokens < offsets[i / tokens * (clusters + 1) + clusters];
  perm[i] = placed ? order[i] : -1;
}

}  // namespace tk::cluster::gpu
