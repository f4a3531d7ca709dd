// SPDX-License-Identifier: Apache-2.0
// A softmax by one warp or one block; the same value in every thread, combined in a fixed tree.
#pragma once
#include "core/gpu.cuh"
#include "select/topk_gate.h"

namespace tk::selection::gpu {

constexpr int kSoftmaxWarps = 32;  // of the largest block

__device__ __forceinline__ float warp_max(float x) {
  for (int half = 16; half > 0; half /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, half));
  return x;
}

__device__ __forceinline__ float warp_sum(float x) {
  for (int half = 16; half > 0; half /= 2) x += __shfl_xor_sync(kAllLanes, x, half);
  return x;
}

// exp(x - largest) / sum; NaN is passed over in `largest` and comes back in `sum`.
struct RowSoftmax {
  float largest, sum;
  __device__ float operator()(float x) const { return expf(x - largest) / sum; }
};

template <class T>
__device__ __forceinline__ RowSoftmax warp_softmax(const T* logits, int64_t n) {
  const int64_t lane = threadIdx.x % 32;
  RowSoftmax s{-kInfinity, 0.0f};
  for (int64_t e = lane; e < n; e += 32) s.largest = fmaxf(s.largest, to_float(logits[e]));
  s.largest = warp_max(s.largest);
  for (int64_t e = lane; e < n; e += 32) s.sum += expf(to_float(logits[e]) - s.largest);
  s.sum = warp_sum(s.sum);
  return s;
}

// Of a value of every warp; the block has whole warps.
template <class Combine>
__device__ __forceinline__ float across_warps(float value, Combine combine) {
  TK_SHARED(across, float[kSoftmaxWarps]);
  __syncthreads();
  if (threadIdx.x % 32 == 0) across[threadIdx.x / 32] = value;
  __syncthreads();
  value = across[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) value = combine(value, across[w]);
  return value;
}

struct Larger {
  __device__ float operator()(float x, float y) const { return fmaxf(x, y); }
};
struct Plus {
  __device__ float operator()(float x, float y) const { return x + y; }
};

template <class T>
__device__ __forceinline__ RowSoftmax block_softmax(const T* logits, int64_t n) {
  RowSoftmax s{-kInfinity, 0.0f};
  for (int64_t e = threadIdx.x; e < n; e += blockDim.x) s.largest = fmaxf(s.largest, to_float(logits[e]));
  s.largest = across_warps(warp_max(s.largest), Larger());
  for (int64_t e = threadIdx.x; e < n; e += blockDim.x) s.sum += expf(to_float(logits[e]) - s.largest);
  s.sum = across_warps(warp_sum(s.sum), Plus());
  return s;
}

}  // namespace tk::selection::gpu
