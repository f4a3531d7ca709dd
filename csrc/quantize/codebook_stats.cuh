// SPDX-License-Identifier: Apache-2.0
// Counts by atomic additions of integers, which have no order; then one block a book adds up the terms of its entropy,
// always in the same order.
#pragma once
#include "core/gpu.cuh"
#include "quantize/codebook_stats.h"

namespace tk::quantize::gpu {

constexpr int kStatsThreads = 256;

template <int threads>
__global__ void __launch_bounds__(threads) clear_counts_kernel(CodebookStatsArgs a) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < a.books * a.codes) a.counts[i] = 0;
}

template <int threads>
__global__ void __launch_bounds__(threads) count_codes_kernel(CodebookStatsArgs a) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= a.books * a.rows) return;
  const int64_t k = a.index[i];
  if (k < 0 || k >= a.codes) return;
  atomicAdd(reinterpret_cast<unsigned long long*>(a.counts + i / a.rows * a.codes + k), 1ull);
}

// The sum over the block, by a fixed tree; every thread gets it.
template <int threads, class N>
__device__ __forceinline__ N block_total(N own, N* shared) {
  __syncthreads();
  shared[threadIdx.x] = own;
  __syncthreads();
  for (int half = threads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  return shared[0];
}

template <int threads>
__global__ void __launch_bounds__(threads) codebook_stats_kernel(CodebookStatsArgs a) {
  TK_SHARED(whole, int64_t[threads]);
  TK_SHARED(parts, float[threads]);
  const int64_t q = blockIdx.x;
  const int64_t* counts = a.counts + q * a.codes;
  int64_t total = 0;
  int64_t used = 0;
  for (int64_t k = threadIdx.x; k < a.codes; k += threads) {
    total += counts[k];
    used += counts[k] > 0;
  }
  total = block_total<threads>(total, whole);
  used = block_total<threads>(used, whole);
  float sum = 0;
  for (int64_t k = threadIdx.x; k < a.codes; k += threads) {
    const float p = total ? static_cast<float>(counts[k]) / static_cast<float>(total) : 0.0f;
    sum += p > 0.0f ? p * logf(p) : 0.0f;
  }
  const float entropy = 0.0f - block_total<threads>(sum, parts);
  if (threadIdx.x != 0) return;
  a.usage[q] = static_cast<float>(used) / static_cast<float>(a.codes);
  a.entropy[q] = entropy;
  a.perplexity[q] = expf(entropy);
  a.normalized[q] = used > 1 ? entropy / logf(static_cast<float>(used)) : 0.0f;
}

}  // namespace tk::quantize::gpu
