// SPDX-License-Identifier: Apache-2.0
// One warp sums one row, 32 blocks at a time.
#pragma once
#include "attention/block_offsets.h"
#include "core/gpu.cuh"

namespace tk::attention::gpu {

constexpr int kOffsetThreads = 128;

__device__ __forceinline__ int64_t within(int64_t x, int64_t total) { return x < 0 ? 0 : x < total ? x : total; }

// Sum of the values of this lane and the lanes below it.
__device__ __forceinline__ int64_t running_sum(int64_t x, int lane) {
  for (int step = 1; step < 32; step *= 2) {
    const auto below = static_cast<int64_t>(__shfl_up_sync(kAllLanes, static_cast<long long>(x), step));
    if (lane >= step) x += below;
  }
  return x;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    block_offsets_kernel(const int64_t* sizes, int64_t* offsets, int64_t rows, int64_t blocks, int64_t total) {
  const int lane = threadIdx.x % 32;
  const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (row >= rows) return;
  int64_t* to = offsets + row * (blocks + 1);
  int64_t before = 0;
  for (int64_t first = 0; first < blocks; first += 32) {
    const int64_t c = first + lane;
    const int64_t size = c < blocks ? within(sizes[row * blocks + c], total) : 0;
    const int64_t sum = running_sum(size, lane);
    if (c < blocks) to[c] = within(before + sum - size, total);
    before = within(before + static_cast<int64_t>(__shfl_sync(kAllLanes, static_cast<long long>(sum), 31)), total);
  }
  if (lane == 0) to[blocks] = total;
}

}  // namespace tk::attention::gpu
