// SPDX-License-Identifier: Apache-2.0
// grad_q: a block takes 64 queries past all keys. grad_k is the same walk with queries and keys exchanged: a block
// takes 64 keys past all queries. Either way one block owns its rows, so no sum needs an atomic.
#pragma once
#include "attention/attention_map_ce_backward.h"
#include "attention/map_tile.cuh"

namespace tk::attention::gpu {

constexpr int kGradStride = kMapTile + 4;

// dS of the thread's pairs. `swapped`: rows of the tile are keys.
template <class T, bool swapped>
__device__ __forceinline__ void score_gradients(const AttentionMapCeBackwardArgs& a, int64_t head, int64_t first_row,
                                                int64_t first_column, MapSlice& left, MapSlice& right,
                                                float (&ds)[4][4]) {
  const int64_t b = head / a.heads;
  const int64_t h = head % a.heads;
  float t[4][4];
  side_scores<T, swapped>(a.student, b, h, a.queries, a.keys, first_row, first_column, left, right, ds);
  side_scores<T, swapped>(a.teacher, b, h, a.queries, a.keys, first_row, first_column, left, right, t);
#pragma unroll
  for (int e = 0; e < 16; ++e) {
    const int64_t row = first_row + 4 * (threadIdx.x / 16) + e / 4;
    const int64_t column = first_column + threadIdx.x % 16 + 16 * (e % 4);
    const int64_t i = swapped ? column : row;
    const int64_t j = swapped ? row : column;
    float& value = ds[e / 4][e % 4];
    if (i >= a.queries || j >= a.keys) {
      value = 0.0f;
      continue;
    }
    const int64_t at = head * a.queries + i;
    const float p = expf(value - a.lse_student[at]) - expf(t[e / 4][e % 4] - a.lse_teacher[at]);
    value = a.student.scale * a.grad[at] * p;
  }
}

// kColumns: vectors of 16 columns of the answer a thread row holds.
template <class T, bool swapped, int kColumns>
__global__ void __launch_bounds__(kMapThreads) attention_map_ce_backward_kernel(AttentionMapCeBackwardArgs a) {
  TK_SHARED(left, float[kMapDepth][kMapStride]);
  TK_SHARED(right, float[kMapDepth][kMapStride]);
  TK_SHARED(gradient, float[kMapTile][kGradStride]);  // [column][row]
  const int y = threadIdx.x / 16;
  const int x = threadIdx.x % 16;
  const int64_t rows = swapped ? a.keys : a.queries;
  const int64_t columns = swapped ? a.queries : a.keys;
  const int64_t tiles = (rows + kMapTile - 1) / kMapTile;
  const int64_t head = blockIdx.x / tiles;
  const int64_t first = blockIdx.x % tiles * kMapTile;
  const HeadRows& others = swapped ? a.student.rows : a.student.columns;
  const HeadSlice<T> other = head_slice<T>(others, head / a.heads, head % a.heads, columns);
  const int64_t width = a.student.width;
  float sum[4][kColumns] = {};
  for (int64_t column = 0; column < columns; column += kMapTile) {
    float ds[4][4];
    score_gradients<T, swapped>(a, head, first, column, left, right, ds);
#pragma unroll
    for (int e = 0; e < 16; ++e) gradient[x + 16 * (e % 4)][4 * y + e / 4] = ds[e / 4][e % 4];
    __syncthreads();
    const int present = static_cast<int>(columns - column < kMapTile ? columns - column : kMapTile);
    for (int c = 0; c < present; ++c) {
      const T* from = other.data + (column + c) * other.row_stride;
#pragma unroll
      for (int k = 0; k < kColumns; ++k) {
        const float value = x + 16 * k < width ? to_float(from[x + 16 * k]) : 0.0f;
#pragma unroll
        for (int r = 0; r < 4; ++r) sum[r][k] = fmaf(gradient[c][4 * y + r], value, sum[r][k]);
      }
    }
    __syncthreads();
  }
  T* out = static_cast<T*>(swapped ? a.grad_k : a.grad_q);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int64_t row = first + 4 * y + r;
    if (row >= rows) continue;
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      if (x + 16 * k < width) out[(head * rows + row) * width + x + 16 * k] = from_float<T>(sum[r][k]);
    }
  }
}

}  // namespace tk::attention::gpu
