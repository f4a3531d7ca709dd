// SPDX-License-Identifier: Apache-2.0
// One warp copies one row; Word is the widest type that divides the row and fits its alignment. The gradient takes the
// kernels of cluster/update: the rows that name a code are a cluster.
#pragma once
#include "core/gpu.cuh"
#include "quantize/lookup.h"

namespace tk::quantize::gpu {

constexpr int kLookupThreads = 256;

template <class Word>
__global__ void __launch_bounds__(kLookupThreads)
    lookup_kernel(const Word* codes, const int64_t* index, Word* out, int64_t total, int64_t rows, int64_t codes_count,
                  int64_t words, int64_t book_stride, int64_t code_stride) {
  const int lane = threadIdx.x % 32;
  const int64_t row = (int64_t{blockIdx.x} * kLookupThreads + threadIdx.x) / 32;
  if (row >= total) return;
  const int64_t code = index[row];
  const bool valid = code >= 0 && code < codes_count;
  const Word* from = codes + row / rows * book_stride + code * code_stride;
  for (int64_t c = lane; c < words; c += 32) out[row * words + c] = valid ? from[c] : Word{};
}

// index (N, Q) as (layers, N).
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    transpose_index_kernel(const int64_t* index, int64_t* out, int64_t rows, int64_t books, int64_t layers) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < layers * rows) out[i] = index[i % rows * books + i / rows];
}

// Sums rounded to their dtype, and zeros behind them.
template <class T>
__global__ void __launch_bounds__(kLookupThreads)
    round_sums_kernel(const float* sums, T* out, int64_t count, int64_t total) {
  const int64_t i = int64_t{blockIdx.x} * kLookupThreads + threadIdx.x;
  if (i < total) out[i] = i < count ? from_float<T>(sums[i]) : T{};
}

}  // namespace tk::quantize::gpu
