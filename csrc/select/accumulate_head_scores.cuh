// SPDX-License-Identifier: Apache-2.0
// A block adds up a chunk of the rows of a head, a second launch the chunks.
#pragma once
#include "select/accumulate_head_scores.h"
#include "select/block_sums.cuh"

namespace tk::selection::gpu {

constexpr int64_t kHeadRows = 128;  // of a chunk

// sums: (B * H, chunks).
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    head_chunks_kernel(AccumulateHeadScoresArgs a, float* sums, int64_t chunks) {
  const int64_t head = blockIdx.x / chunks;
  const int64_t b = head / a.heads;
  const int64_t first = blockIdx.x % chunks * kHeadRows;
  const int64_t rows = a.queries - first < kHeadRows ? a.queries - first : kHeadRows;
  const T* e = head_row<T>(a.e, b, head % a.heads, first);
  float sum = 0.0f;
  for (int64_t at = threadIdx.x; at < rows * a.width; at += blockDim.x) {
    const int64_t i = at / a.width;
    if (!a.live || a.live[b * a.queries + first + i]) sum += fabsf(to_float(e[i * a.e.row_stride + at % a.width]));
  }
  sum = block_combined(sum, Plus{});
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(kSumThreads)
    head_fold_kernel(AccumulateHeadScoresArgs a, const float* sums, int64_t chunks) {
  const int64_t head = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
  if (head >= a.batch * a.heads) return;
  float sum = a.score ? a.score[head] : 0.0f;
  for (int64_t c = 0; c < chunks; ++c) sum += sums[head * chunks + c];
  a.out[head] = sum;
}

}  // namespace tk::selection::gpu
