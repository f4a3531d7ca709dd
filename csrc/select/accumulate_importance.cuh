// SPDX-License-Identifier: Apache-2.0
// A thread adds up a column of a chunk of rows, so that a warp reads along a row; a second launch adds the chunks.
#pragma once
#include "core/gpu.cuh"
#include "select/accumulate_importance.h"

namespace tk::selection::gpu {

constexpr int kImportanceThreads = 128;
constexpr int64_t kImportanceRows = 64;  // of a chunk

// sums: (B, chunks, K).
template <class T>
__global__ void __launch_bounds__(kImportanceThreads)
    importance_chunks_kernel(AccumulateImportanceArgs a, float* sums, int64_t chunks, int64_t blocks) {
  const int64_t chunk = blockIdx.x / blocks;  // of all samples
  const int64_t j = blockIdx.x % blocks * kImportanceThreads + threadIdx.x;
  if (j >= a.keys) return;
  const int64_t b = chunk / chunks;
  const int64_t first = chunk % chunks * kImportanceRows;
  const int64_t rows = a.heads * a.queries;
  const int64_t end = first + kImportanceRows < rows ? first + kImportanceRows : rows;
  float sum = 0.0f;
  for (int64_t r = first; r < end; ++r) {
    const int64_t i = r % a.queries;
    if (a.live && !a.live[b * a.queries + i]) continue;
    sum += to_float(head_row<T>(a.prob, b, r / a.queries, i)[j]);
  }
  sums[chunk * a.keys + j] = sum;
}

static __global__ void __launch_bounds__(kImportanceThreads)
    importance_fold_kernel(AccumulateImportanceArgs a, const float* sums, int64_t chunks) {
  const int64_t at = int64_t{blockIdx.x} * kImportanceThreads + threadIdx.x;
  if (at >= a.batch * a.keys) return;
  const float* from = sums + at / a.keys * chunks * a.keys + at % a.keys;
  float sum = a.score ? a.score[at] : 0.0f;
  for (int64_t c = 0; c < chunks; ++c) sum += from[c * a.keys];
  a.out[at] = sum;
}

}  // namespace tk::selection::gpu
