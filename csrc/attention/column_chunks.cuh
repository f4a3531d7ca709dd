// SPDX-License-Identifier: Apache-2.0
// The last step of attention_column_sums.
#pragma once
#include "core/gpu.cuh"

namespace tk::attention::gpu {

constexpr int kAddThreads = 256;

// out[r] = sum of the chunks of head r, in order.
static __global__ void __launch_bounds__(kAddThreads)
    add_column_chunks_kernel(const float* sums, float* out, int64_t total, int64_t keys, int64_t chunks) {
  const int64_t i = int64_t{blockIdx.x} * kAddThreads + threadIdx.x;
  if (i >= total) return;
  const float* from = sums + i / keys * chunks * keys + i % keys;
  float sum = from[0];
  for (int64_t c = 1; c < chunks; ++c) sum += from[c * keys];
  out[i] = sum;
}

}  // namespace tk::attention::gpu
