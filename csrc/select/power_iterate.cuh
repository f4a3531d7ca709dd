// SPDX-License-Identifier: Apache-2.0
// One block a head, all steps in one launch. Threads stand side by side along the columns, in groups that share the
// rows; the sums of the groups meet in a fixed order. The map stays in shared memory where it fits, 16-bit ones as they
// are with two columns a thread; otherwise its rows come from L2.
#pragma once
#include "core/gpu.cuh"
#include "select/power_iterate.h"

namespace tk::selection::gpu {

constexpr int kPowerThreads = 1024;
constexpr int kRowsAtOnce = 4;  // whose weights come in one load

// How the threads of a block share a head.
struct PowerShape {
  int64_t columns;  // of the sums in shared memory: N, or N and a pad
  int width;        // threads along the columns
  int groups;
  int rows;  // of a group, a multiple of kRowsAtOnce
};

TK_INLINE int64_t padded_tokens(int64_t tokens) { return (tokens + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce; }

struct alignas(16) RowWeights {
  float x[kRowsAtOnce];
};

template <class T, int C>
struct alignas(sizeof(T) * C) Neighbours {
  T x[C];
};

// Columns a thread takes at once.
template <class T, bool kResident>
constexpr int kColumnsOf = kResident && sizeof(T) == 2 ? 2 : 1;

template <class T>
__device__ __forceinline__ void fetch_map(const T* from, int64_t n, int64_t row_stride, int64_t columns, T* to) {
  for (int64_t i = threadIdx.x / 32; i < n; i += blockDim.x / 32) {
    for (int64_t j = threadIdx.x % 32; j < columns; j += 32) {
      to[i * columns + j] = j < n ? from[i * row_stride + j] : from_float<T>(0.0f);
    }
  }
}

template <class T, int C>
__device__ __forceinline__ void add_row(const T* row, float weight, float (&sum)[C]) {
  const auto x = *reinterpret_cast<const Neighbours<T, C>*>(row);
  for (int c = 0; c < C; ++c) sum[c] = fmaf(to_float(x.x[c]), weight, sum[c]);
}

// This group's part of the sums of C columns.
template <class T, int C>
__device__ __forceinline__ void add_rows(const T* column, int64_t stride, const float* s, int64_t begin, int64_t end,
                                         float (&sum)[C]) {
  int64_t i = begin;
  for (; i + kRowsAtOnce <= end; i += kRowsAtOnce) {
    const RowWeights weight = *reinterpret_cast<const RowWeights*>(s + i);
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) add_row<T, C>(column + (i + r) * stride, weight.x[r], sum);
  }
  for (; i < end; ++i) add_row<T, C>(column + i * stride, s[i], sum);
}

template <class T, bool kResident>
__global__ void __launch_bounds__(kPowerThreads) power_iterate_kernel(PowerIterateArgs a, PowerShape p) {
  constexpr int C = kColumnsOf<T, kResident>;
  TK_SHARED(moving, int[2]);  // by parity of the step
  TK_DYNAMIC_SHARED(float, s);
  float* sums = s + padded_tokens(a.tokens);
  const int64_t head = blockIdx.x;
  const int64_t n = a.tokens;
  const T* map = map_of_head<T>(a, head);
  int64_t stride = a.row_stride;
  if (kResident) {
    T* resident = reinterpret_cast<T*>(sums + p.groups * p.columns);
    fetch_map(map, n, stride, p.columns, resident);
    map = resident;
    stride = p.columns;
  }
  for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
    s[j] = a.start ? a.start[head * n + j] : 1.0f / static_cast<float>(n);
  }
  if (threadIdx.x == 0) moving[0] = 0;
  __syncthreads();
  const int group = static_cast<int>(threadIdx.x) / p.width;
  const int64_t begin = int64_t{group} * p.rows;
  const int64_t end = begin + p.rows < n ? begin + p.rows : n;
  for (int64_t t = 0; t < a.iters; ++t) {
    for (int64_t j = static_cast<int64_t>(threadIdx.x % p.width) * C; j < n; j += p.width * C) {
      float sum[C] = {};
      add_rows<T, C>(map + j, stride, s, begin, end, sum);
      for (int c = 0; c < C; ++c) sums[group * p.columns + j + c] = sum[c];
    }
    __syncthreads();
    if (threadIdx.x == 0) moving[(t + 1) % 2] = 0;
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
      float sum = sums[j];
      for (int g = 1; g < p.groups; ++g) sum += sums[g * p.columns + j];
      if (a.eps >= 0 && !(fabsf(sum - s[j]) <= a.eps)) atomicOr(&moving[t % 2], 1);
      s[j] = sum;
    }
    __syncthreads();
    if (a.eps >= 0 && !moving[t % 2]) break;
  }
  for (int64_t j = threadIdx.x; j < n; j += blockDim.x) a.out[head * n + j] = s[j];
}

}  // namespace tk::selection::gpu
