// SPDX-License-Identifier: Apache-2.0
// One block a head; warps take rows of the map in turns. Sums of integers, so that their order does not matter.
#pragma once
#include "cluster/map_density.h"
#include "core/gpu.cuh"

namespace tk::cluster::gpu {

constexpr int kDensityThreads = 256;

// To be called by whole warps; every lane gets the sum.
__device__ __forceinline__ int64_t sum_of_warp(int64_t value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) map_density_kernel(MapDensityArgs a) {
  TK_SHARED(sums, unsigned long long[3]);  // pairs kept, queries, keys
  const int64_t g = blockIdx.x;
  const int lane = threadIdx.x % 32;
  const int64_t warp = threadIdx.x / 32;
  if (threadIdx.x < 3) sums[threadIdx.x] = 0;
  __syncthreads();
  const uint8_t* map = a.map + g / a.heads * a.batch_stride + g % a.heads * a.head_stride;
  const int64_t* size_k = a.size_k + g * a.keys;
  int64_t kept = 0;
  int64_t queries = 0;
  int64_t keys = 0;
  for (int64_t i = warp; i < a.queries; i += kThreads / 32) {
    const int64_t size = a.size_q[g * a.queries + i];
    int64_t row = 0;
    for (int64_t j = lane; j < a.keys; j += 32) row += map[i * a.row_stride + j] ? size_k[j] : 0;
    kept += size * row;
    if (lane == 0) queries += size;
  }
  for (int64_t j = threadIdx.x; j < a.keys; j += kThreads) keys += size_k[j];
  kept = sum_of_warp(kept);
  keys = sum_of_warp(keys);
  if (lane == 0) {
    atomicAdd(&sums[0], static_cast<unsigned long long>(kept));
    atomicAdd(&sums[1], static_cast<unsigned long long>(queries));
    atomicAdd(&sums[2], static_cast<unsigned long long>(keys));
  }
  __syncthreads();
  if (threadIdx.x == 0) a.out[g] = density_of(static_cast<int64_t>(sums[0]), static_cast<int64_t>(sums[1] * sums[2]));
}

}  // namespace tk::cluster::gpu
