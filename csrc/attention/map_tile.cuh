// SPDX-License-Identifier: Apache-2.0
// Scores of a tile of 64 x 64 pairs, float32, in the registers of 256 threads: thread (y, x) of 16 x 16 holds rows
// 4y .. 4y + 3 and columns x, x + 16, x + 32, x + 48.
#pragma once
#include "attention/attention_map_ce.h"
#include "core/gpu.cuh"

namespace tk::attention::gpu {

constexpr int kMapTile = 64;
constexpr int kMapThreads = 256;
constexpr int kMapDepth = 32;             // of the slices that pass through shared memory
constexpr int kMapStride = kMapTile + 1;  // padded: a transposing store meets 32 banks

// One head of an array (B, H, N, D).
template <class T>
struct HeadSlice {
  const T* data;
  int64_t row_stride, rows;
};

template <class T>
__device__ __forceinline__ HeadSlice<T> head_slice(const HeadRows& x, int64_t b, int64_t h, int64_t rows) {
  return {static_cast<const T*>(x.data) + b * x.batch_stride + h * x.head_stride, x.row_stride, rows};
}

// Columns [d, d + 32) of rows [first, first + 64), transposed; zeros outside.
template <class T>
__device__ __forceinline__ void load_slice(const HeadSlice<T>& x, int64_t first, int64_t d, int64_t width,
                                           float (&to)[kMapDepth][kMapStride]) {
  for (int e = threadIdx.x; e < kMapTile * kMapDepth; e += kMapThreads) {
    const int64_t row = first + e / kMapDepth;
    const int64_t column = d + e % kMapDepth;
    const bool inside = row < x.rows && column < width;
    to[e % kMapDepth][e / kMapDepth] = inside ? to_float(x.data[row * x.row_stride + column]) : 0.0f;
  }
}

using MapSlice = float[kMapDepth][kMapStride];

template <class T>
__device__ __forceinline__ void multiply(const HeadSlice<T>& rows, int64_t first_row, const HeadSlice<T>& columns,
                                         int64_t first_column, int64_t width, MapSlice& left, MapSlice& right,
                                         float (&score)[4][4]) {
  const int y = threadIdx.x / 16;
  const int x = threadIdx.x % 16;
#pragma unroll
  for (int e = 0; e < 16; ++e) score[e / 4][e % 4] = 0.0f;
  for (int64_t d = 0; d < width; d += kMapDepth) {
    load_slice(rows, first_row, d, width, left);
    load_slice(columns, first_column, d, width, right);
    __syncthreads();
    for (int k = 0; k < kMapDepth; ++k) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) score[r][c] = fmaf(left[k][4 * y + r], right[k][x + 16 * c], score[r][c]);
      }
    }
    __syncthreads();
  }
}

// The scores of one side. `swapped`: the tile's rows are the side's columns.
template <class T, bool swapped>
__device__ __forceinline__ void side_scores(const MapSide& side, int64_t b, int64_t h, int64_t queries, int64_t keys,
                                            int64_t first_row, int64_t first_column, MapSlice& left, MapSlice& right,
                                            float (&score)[4][4]) {
  const HeadSlice<T> query = head_slice<T>(side.rows, b, h, queries);
  if (side.columns.data != nullptr) {
    const HeadSlice<T> key = head_slice<T>(side.columns, b, h, keys);
    multiply(swapped ? key : query, first_row, swapped ? query : key, first_column, side.width, left, right, score);
#pragma unroll
    for (int e = 0; e < 16; ++e) score[e / 4][e % 4] *= side.scale;
    return;
  }
#pragma unroll
  for (int e = 0; e < 16; ++e) {
    const int64_t row = first_row + 4 * (threadIdx.x / 16) + e / 4;
    const int64_t column = first_column + threadIdx.x % 16 + 16 * (e % 4);
    const int64_t i = swapped ? column : row;
    const int64_t j = swapped ? row : column;
    score[e / 4][e % 4] = i < queries && j < keys ? to_float(query.data[i * query.row_stride + j]) : 0.0f;
  }
}

// Over the 16 threads that hold a row.
__device__ __forceinline__ float row_max(float x) {
  for (int step = 8; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}
__device__ __forceinline__ float row_sum(float x) {
  for (int step = 8; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

}  // namespace tk::attention::gpu
