// SPDX-License-Identifier: Apache-2.0
// One block a row.
#pragma once
#include "core/gpu.cuh"
#include "tree/gumbel_argmax.h"

namespace tk::tree::gpu {

constexpr int kGumbelThreads = 512;

template <class T>
__global__ void __launch_bounds__(kGumbelThreads) gumbel_argmax_kernel(GumbelArgmaxArgs a) {
  TK_SHARED(warps, Candidate[kGumbelThreads / 32]);
  const int64_t row = blockIdx.x;
  const T* logits = logits_row<T>(a, row);
  const float* u = a.u + row * a.u_stride;
  Candidate best{0, -1};
  for (int64_t v = threadIdx.x; v < a.width; v += blockDim.x) {
    float score = to_float(logits[v]);
    if (a.scale != 0.0f) score = noisy_score<int32_t>(lone_product(score, a.scale), bound_noise(u[v]));
    const Candidate item{score_key(score), v};
    if (comes_before(item, best)) best = item;
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const Candidate other{__shfl_xor_sync(kAllLanes, best.key, lanes), __shfl_xor_sync(kAllLanes, best.index, lanes)};
    if (comes_before(other, best)) best = other;
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (unsigned w = 1; w < blockDim.x / 32; ++w) {
    if (comes_before(warps[w], best)) best = warps[w];
  }
  a.index[row] = best.index;
}

}  // namespace tk::tree::gpu
