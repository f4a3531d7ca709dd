// SPDX-License-Identifier: Apache-2.0
// What the threads of a block know together, in an order that the size of the block decides.
#pragma once
#include "core/gpu.cuh"

namespace tk::selection::gpu {

constexpr int kSumThreads = 256;  // most of a block

struct Plus {
  TK_HOST_DEVICE float operator()(float a, float b) const { return a + b; }
};
struct Larger {  // of two numbers, or the number where one is NaN
  TK_HOST_DEVICE float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <class Combine>
__device__ __forceinline__ float warp_combined(float x, const Combine& combine) {
  for (int step = 16; step > 0; step /= 2) x = combine(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// Every thread gets the answer; blocks of whole warps, all of whose threads take part.
template <class Combine>
__device__ __forceinline__ float block_combined(float x, const Combine& combine) {
  TK_SHARED(part, float[kSumThreads / 32]);
  x = warp_combined(x, combine);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
  __syncthreads();
  float all = part[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) all = combine(all, part[w]);
  __syncthreads();
  return all;
}

}  // namespace tk::selection::gpu
