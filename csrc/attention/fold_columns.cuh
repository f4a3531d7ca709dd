// SPDX-License-Identifier: Apache-2.0
// One thread adds up a column over the heads; one warp adds up the keys of a group.
#pragma once
#include "attention/fold_columns.h"
#include "core/gpu.cuh"

namespace tk::attention::gpu {

constexpr int kFoldThreads = 128;

static __global__ void __launch_bounds__(kFoldThreads)
    fold_heads_kernel(FoldColumnsArgs a, int64_t heads, int64_t answers) {
  const int64_t i = int64_t{blockIdx.x} * kFoldThreads + threadIdx.x;
  if (i >= answers) return;
  const int64_t row = i / a.keys;
  const float* from = a.sums + row * heads * a.keys + i % a.keys;
  float sum = 0.0f;
  for (int64_t h = 0; h < heads; ++h) sum += from[h * a.keys];
  a.out[i] = sum;
}

static __global__ void __launch_bounds__(kFoldThreads)
    fold_groups_kernel(FoldColumnsArgs a, int64_t heads, int64_t warps) {
  const int lane = threadIdx.x % 32;
  const int64_t warp = (int64_t{blockIdx.x} * kFoldThreads + threadIdx.x) / 32;
  if (warp >= warps) return;
  const int64_t row = warp / a.count;
  const int64_t group = warp % a.count;
  const int64_t* groups = a.groups + (a.over_heads ? row : row / a.heads) * a.groups_batch_stride;
  float sum = 0.0f;
  for (int64_t h = 0; h < heads; ++h) {
    const float* from = a.sums + (row * heads + h) * a.keys;
    for (int64_t j = lane; j < a.keys; j += 32) {
      if (groups[j] == group) sum += from[j];
    }
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (lane == 0) a.out[warp] = sum;
}

}  // namespace tk::attention::gpu
