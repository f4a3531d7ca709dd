// SPDX-License-Identifier: Apache-2.0
// One block a row, or a chunk of a row where there are few: a warp a row then finds the best of the chunks.
#pragma once
#include "core/gpu.cuh"
#include "tree/gumbel_argmax.h"

namespace tk::tree::gpu {

constexpr int kGumbelThreads = 512;
constexpr int64_t kGumbelChunk = 8 * kGumbelThreads;

__device__ __forceinline__ Candidate best_of_warp(Candidate best) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const Candidate other{__shfl_xor_sync(kAllLanes, best.key, lanes), __shfl_xor_sync(kAllLanes, best.index, lanes)};
    if (comes_before(other, best)) best = other;
  }
  return best;
}

// `parts` is (rows, chunks), or null where a chunk is a row.
template <class T>
__global__ void __launch_bounds__(kGumbelThreads)
    gumbel_argmax_kernel(GumbelArgmaxArgs a, Candidate* parts, int64_t chunks, int64_t chunk) {
  TK_SHARED(warps, Candidate[kGumbelThreads / 32]);
  const int64_t row = blockIdx.x / chunks;
  const int64_t begin = blockIdx.x % chunks * chunk;
  const int64_t end = begin + chunk < a.width ? begin + chunk : a.width;
  const T* logits = logits_row<T>(a, row);
  const float* u = a.u + row * a.u_stride;
  Candidate best{0, -1};
  for (int64_t v = begin + threadIdx.x; v < end; v += blockDim.x) {
    float score = to_float(logits[v]);
    if (a.scale != 0.0f) score = noisy_score<int32_t>(lone_product(score, a.scale), bound_noise(u[v]));
    const Candidate item{score_key(score), v};
    if (comes_before(item, best)) best = item;
  }
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (unsigned w = 1; w < blockDim.x / 32; ++w) {
    if (comes_before(warps[w], best)) best = warps[w];
  }
  if (parts) {
    parts[blockIdx.x] = best;
  } else {
    a.index[row] = best.index;
  }
}

template <class Unused>
__global__ void __launch_bounds__(kGumbelThreads)
    gumbel_join_kernel(GumbelArgmaxArgs a, const Candidate* parts, int64_t chunks) {
  const int64_t row = (int64_t{blockIdx.x} * kGumbelThreads + threadIdx.x) / 32;
  if (row >= a.rows) return;
  Candidate best{0, -1};
  for (int64_t c = threadIdx.x % 32; c < chunks; c += 32) {
    const Candidate part = parts[row * chunks + c];
    if (comes_before(part, best)) best = part;
  }
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) a.index[row] = best.index;
}

}  // namespace tk::tree::gpu
