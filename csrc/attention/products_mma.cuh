// SPDX-License-Identifier: Apache-2.0
// Products of tiles in shared memory on tensor cores. A warp owns 16 rows of every left side.
//
// Lane (g, t) = (lane / 4, lane % 4) holds rows g and g + 8 of the warp, and columns 2t and 2t + 1 of every eight.
#pragma once
#include "attention/key_walk.cuh"
#include "attention/tile_rows.cuh"

namespace tk::attention::gpu {

template <class T>
TK_INLINE uint32_t pair_of(float low, float high) {
  return from_float<T>(low).bits | uint32_t{from_float<T>(high).bits} << 16;
}

template <int kGroups>
__device__ __forceinline__ void clear(float (&sum)[kGroups][4]) {
#pragma unroll
  for (int n = 0; n < kGroups; ++n) sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0.0f;
}

// sum[n] = 16 rows of `left` from the warp's first times rows [8n, 8n + 8) of `right`, along the first `chunks` chunks;
// kAll: along all, without a branch that would keep loads from moving ahead of the products before them.
template <bool kAll, class T, int kWidth, int kGroups>
__device__ __forceinline__ void multiply_chunks(const T* left, const T* right, int chunks, float (&sum)[kGroups][4],
                                                int first_row) {
  const int lane = threadIdx.x % 32;
  const int row = first_row + lane % 16;
  clear(sum);
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    if (!kAll && 2 * k >= chunks) break;
    uint32_t a[4];
    ldmatrix_x4(a, left + place<T, kWidth>(row, 2 * k + lane / 16));
#pragma unroll
    for (int n = 0; n < kGroups; n += 2) {
      uint32_t both[4];
      ldmatrix_x4(both, right + place<T, kWidth>(n * 8 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
      const uint32_t first[2] = {both[0], both[1]};
      const uint32_t second[2] = {both[2], both[3]};
      mma_m16n8k16<T>(sum[n], a, first);
      mma_m16n8k16<T>(sum[n + 1], a, second);
    }
  }
}

template <class T, int kWidth, int kGroups>
__device__ __forceinline__ void multiply_rows(const T* left, const T* right, int chunks, float (&sum)[kGroups][4],
                                              int first_row) {
  if (chunks == kWidth / 8) {
    multiply_chunks<true, T, kWidth>(left, right, chunks, sum, first_row);
  } else {
    multiply_chunks<false, T, kWidth>(left, right, chunks, sum, first_row);
  }
}

// The same for blocks whose warps own 16 rows each.
template <class T, int kWidth, int kGroups>
__device__ __forceinline__ void multiply_rows(const T* left, const T* right, int chunks, float (&sum)[kGroups][4]) {
  multiply_rows<T, kWidth>(left, right, chunks, sum, threadIdx.x / 32 * 16);
}

// sum += weights, rounded to T, times rows of `right`: chunks from `first` on, where there are any before `chunks`.
template <bool kAll, class T, int kWidth, int kGroups, int kChunks>
__device__ __forceinline__ void multiply_weights(const float (&weight)[kGroups][4], const T* right, int first,
                                                 int chunks, float (&sum)[kChunks][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kGroups / 2; ++k) {
    const float (&low)[4] = weight[2 * k];
    const float (&high)[4] = weight[2 * k + 1];
    const uint32_t a[4] = {pair_of<T>(low[0], low[1]), pair_of<T>(low[2], low[3]), pair_of<T>(high[0], high[1]),
                           pair_of<T>(high[2], high[3])};
#pragma unroll
    for (int c = 0; c < kChunks; c += 2) {
      if (!kAll && first + c >= chunks) break;
      uint32_t both[4];
      ldmatrix_x4_trans(both, right + place<T, kWidth>(k * 16 + lane % 16, first + c + lane / 16));
      const uint32_t even[2] = {both[0], both[1]};
      const uint32_t odd[2] = {both[2], both[3]};
      mma_m16n8k16<T>(sum[c], a, even);
      mma_m16n8k16<T>(sum[c + 1], a, odd);
    }
  }
}

template <class T, int kWidth, int kGroups, int kChunks>
__device__ __forceinline__ void multiply_columns(const float (&weight)[kGroups][4], const T* right, int first,
                                                 int chunks, float (&sum)[kChunks][4]) {
  if (first + kChunks <= chunks) {
    multiply_weights<true, T, kWidth>(weight, right, first, chunks, sum);
  } else {
    multiply_weights<false, T, kWidth>(weight, right, first, chunks, sum);
  }
}

// The same for row j of `right` alone, added only to those of the lane's two rows that see it.
template <class T, int kWidth, int kGroups, int kChunks>
__device__ __forceinline__ void add_seen_row(const float (&weight)[kGroups][4], const T* right, int j,
                                             const bool (&seen)[2], int first, int chunks, float (&sum)[kChunks][4]) {
  const int lane = threadIdx.x % 32;
  float of_row[2] = {0.0f, 0.0f};
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float even = weight[n][2 * r];  // values, not places: an address would drive the array out of registers
      const float odd = weight[n][2 * r + 1];
      const float either = j % 2 ? odd : even;
      of_row[r] = n == j / 8 ? either : of_row[r];
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) of_row[r] = __shfl_sync(kAllLanes, of_row[r], lane / 4 * 4 + j % 8 / 2);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (first + c >= chunks) break;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float value = to_float(right[place<T, kWidth>(j, first + c) + lane % 4 * 2 + e % 2]);
      if (seen[e / 2]) sum[c][e] = fmaf(of_row[e / 2], value, sum[c][e]);
    }
  }
}

// Sets marked rows to zero. Called by the whole block, between two barriers.
template <class T, int kRows, int kWidth, int kThreads>
__device__ __forceinline__ void clear_rows(T* rows, uint64_t marked) {
  for (int u = threadIdx.x; u < kRows * kWidth; u += kThreads) {
    if (marked >> (u / kWidth) & 1) rows[u] = T{};
  }
}

// Rounds and writes row `row` of the lane's two: chunks from `first` on of an array of `width` columns.
template <class T, int kChunks>
__device__ __forceinline__ void write_row(const float (&sum)[kChunks][4], int row, float factor, T* to, int first,
                                          int width, bool pairs) {
  const int column = first * 8 + threadIdx.x % 4 * 2;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int left = width - c * 8 - column;
    const float x = sum[c][2 * row] * factor;
    const float y = sum[c][2 * row + 1] * factor;
    T* at = to + column + c * 8;
    if (pairs && left > 0) {
      *reinterpret_cast<uint32_t*>(at) = pair_of<T>(x, y);
    } else {
      if (left > 0) at[0] = from_float<T>(x);
      if (left > 1) at[1] = from_float<T>(y);
    }
  }
}

}  // namespace tk::attention::gpu
