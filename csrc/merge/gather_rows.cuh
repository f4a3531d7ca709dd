// SPDX-License-Identifier: Apache-2.0
// One warp copies one row; Word is the widest type that divides the row and fits its alignment.
#pragma once
#include "core/gpu.cuh"
#include "merge/gather_rows.h"

namespace tk::merge::gpu {

constexpr int kGatherThreads = 256;

template <class Word>
__global__ void __launch_bounds__(kGatherThreads)
    gather_rows_kernel(const Word* x, const int64_t* index, Word* out, int64_t total, int64_t tokens, int64_t picks,
                       int64_t words, int64_t batch_stride, int64_t row_stride) {
  const int lane = threadIdx.x % 32;
  const int64_t row = (int64_t{blockIdx.x} * kGatherThreads + threadIdx.x) / 32;
  if (row >= total) return;
  const int64_t token = index[row];
  const bool valid = token >= 0 && token < tokens;
  const Word* from = x + row / picks * batch_stride + token * row_stride;
  for (int64_t c = lane; c < words; c += 32) out[row * words + c] = valid ? from[c] : Word{};
}

}  // namespace tk::merge::gpu
