// SPDX-License-Identifier: Apache-2.0
// Products of float32 tiles in shared memory on the CUDA cores. Lane (y, x) = (lane / 8, lane % 8) of a warp holds rows
// y, y + 4, y + 8, y + 12 of the warp's 16 (or y alone of four), columns x, x + 8, ... of a product of rows, and chunks
// x, x + 8, ... of four columns of an answer.
#pragma once
#include "attention/key_walk.cuh"
#include "attention/tile_rows.cuh"

namespace tk::attention::gpu {

using Chunk32 = ChunkOf<float>;

// The lane's row i, of those of its block: the warp's rows begin at `first_row`, or every warp owns 16.
__device__ __forceinline__ int fma_row(int i, int first_row) { return first_row + threadIdx.x % 32 / 8 + 4 * i; }
__device__ __forceinline__ int own_rows() { return threadIdx.x / 32 * 16; }
__device__ __forceinline__ int fma_row(int i) { return fma_row(i, own_rows()); }

TK_INLINE float chain(const Chunk32& x, const Chunk32& y, float sum) {
  sum = fmaf(x.item[0], y.item[0], sum);
  sum = fmaf(x.item[1], y.item[1], sum);
  sum = fmaf(x.item[2], y.item[2], sum);
  return fmaf(x.item[3], y.item[3], sum);
}

TK_INLINE const Chunk32& chunk_at(const float* at) { return *reinterpret_cast<const Chunk32*>(at); }

// Weights of a tile in shared memory: four rows of eight weights meet all banks.
template <int kKeys>
struct Weights {
  static constexpr int kPitch = kKeys + 8;
};

template <int kQuads, int kRows>
__device__ __forceinline__ void clear(float (&sum)[kRows][kQuads][4]) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) sum[i][q][0] = sum[i][q][1] = sum[i][q][2] = sum[i][q][3] = 0.0f;
  }
}

// sum[i][j] = the lane's rows of `left` times its rows of `right`, along the first `chunks` chunks.
template <int kWidth, int kColumns, int kRows>
__device__ __forceinline__ void multiply_rows(const float* left, const float* right, int chunks,
                                              float (&sum)[kRows][kColumns], int first_row = own_rows()) {
  const int x = threadIdx.x % 8;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) sum[i][j] = 0.0f;
  }
#pragma unroll 2
  for (int c = 0; c < chunks; ++c) {
    Chunk32 row[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) row[i] = chunk_at(left + place<float, kWidth>(fma_row(i, first_row), c));
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const Chunk32 column = chunk_at(right + place<float, kWidth>(x + 8 * j, c));
#pragma unroll
      for (int i = 0; i < kRows; ++i) sum[i][j] = chain(row[i], column, sum[i][j]);
    }
  }
}

// sum += weights times rows of `right`: chunks from `first` on, where there are any before `chunks`.
template <int kWidth, int kKeys, int kQuads, int kRows>
__device__ __forceinline__ void multiply_columns(const float* weights, const float* right, int first, int chunks,
                                                 float (&sum)[kRows][kQuads][4], int first_row = own_rows(),
                                                 int pitch = Weights<kKeys>::kPitch) {
#pragma unroll 1
  for (int key = 0; key < kKeys; key += 4) {
    Chunk32 weight[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) weight[i] = chunk_at(weights + fma_row(i, first_row) * pitch + key);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        if (first + 8 * q >= chunks) break;
        const Chunk32 value = chunk_at(right + place<float, kWidth>(key + k, first + threadIdx.x % 8 + 8 * q));
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[i][q][e] = fmaf(weight[i].item[k], value.item[e], sum[i][q][e]);
        }
      }
    }
  }
}

// The same for row j of `right` alone, added only to those of the lane's rows that see it.
template <int kWidth, int kKeys, int kQuads, int kRows>
__device__ __forceinline__ void add_seen_row(const float* weights, const float* right, int j, const bool (&seen)[kRows],
                                             int first, int chunks, float (&sum)[kRows][kQuads][4],
                                             int first_row = own_rows(), int pitch = Weights<kKeys>::kPitch) {
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    if (first + 8 * q >= chunks) break;
    const Chunk32 value = chunk_at(right + place<float, kWidth>(j, first + threadIdx.x % 8 + 8 * q));
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float weight = weights[fma_row(i, first_row) * pitch + j];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (seen[i]) sum[i][q][e] = fmaf(weight, value.item[e], sum[i][q][e]);
      }
    }
  }
}

// Writes the lane's part of row i: chunks from `first` on of an array of `width` columns.
template <int kQuads>
__device__ __forceinline__ void write_row(const float (&sum)[kQuads][4], float factor, float* to, int first, int width,
                                          bool wide) {
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    const int column = (first + threadIdx.x % 8 + 8 * q) * 4;
    Chunk32 chunk;
#pragma unroll
    for (int e = 0; e < 4; ++e) chunk.item[e] = sum[q][e] * factor;
    if (wide && column < width) {
      *reinterpret_cast<Chunk32*>(to + column) = chunk;
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (column + e < width) to[column + e] = chunk.item[e];
      }
    }
  }
}

}  // namespace tk::attention::gpu
