// SPDX-License-Identifier: Apache-2.0
// A bitonic sort by one block, for kernels of every family.
#pragma once
#include "core/gpu.cuh"

namespace tk {

// Ascending, size a power of two. Pairs at most 32 apart stay within one warp's 64 elements, so that a warp barrier
// is enough between them.
__device__ __forceinline__ void sort_pairs(uint64_t* pairs, int64_t size) {
  for (int64_t run = 2; run <= size; run *= 2) {
    for (int64_t step = run / 2; step > 0; step /= 2) {
      for (int64_t t = threadIdx.x; t < size / 2; t += blockDim.x) {
        const int64_t low = 2 * t - (t & (step - 1));
        const uint64_t x = pairs[low];
        const uint64_t y = pairs[low + step];
        if ((x > y) == ((low & run) == 0)) {
          pairs[low] = y;
          pairs[low + step] = x;
        }
      }
      if (step > 32 || (step == 1 && run > 32)) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

}  // namespace tk
