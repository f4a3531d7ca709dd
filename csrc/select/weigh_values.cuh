// SPDX-License-Identifier: Apache-2.0
// One block adds up weighed rows of values: threads of a slice take a channel each, slices take turns at the items.
#pragma once
#include "select/block_sums.cuh"

namespace tk::selection::gpu {

// out(d, sum over items i of weight(i) * value(i, d)) for d < width.
template <class Items, class Out>
__device__ __forceinline__ void weigh_values(const Items& items, int64_t count, int64_t width, const Out& out) {
  TK_SHARED(part, float[kSumThreads]);
  const int64_t rounded = (width + 31) / 32 * 32;
  const int lanes = rounded < blockDim.x ? static_cast<int>(rounded) : static_cast<int>(blockDim.x);
  const int slices = static_cast<int>(blockDim.x) / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int slice = static_cast<int>(threadIdx.x) / lanes;
  for (int64_t first = 0; first < width; first += lanes) {
    const int64_t d = first + lane;
    float sum = 0.0f;
    if (d < width && slice < slices) {
      for (int64_t i = slice; i < count; i += slices) sum = fmaf(items.weight(i), items.value(i, d), sum);
    }
    part[threadIdx.x] = sum;
    __syncthreads();
    if (d < width && slice == 0) {
      for (int s = 1; s < slices; ++s) sum += part[s * lanes + lane];
      out(d, sum);
    }
    __syncthreads();
  }
}

}  // namespace tk::selection::gpu
