// SPDX-License-Identifier: Apache-2.0
// The products of soft_aggregate on tensor cores, for float16 and bfloat16 values: weights are rounded to the dtype of
// the values, sums stay float32. Over targets the weights stay on the CUDA cores (see soft_tile.cuh).
//
// A block of 8 warps owns 64 rows; warp w works on rows 16 (w % 4) .. and on half w / 4 of the columns.
#pragma once
#include "core/spread_rows.cuh"
#include "merge/soft_tile.cuh"

namespace tk::merge::gpu {

constexpr int kMmaDepth = 32;             // k of one round
constexpr int kMmaPitch = kMmaDepth + 8;  // of rows along k: 80 bytes, so that 8 rows meet 8 banks
constexpr int kMmaCols = 128;             // channels of a block
constexpr int kMmaColsPitch = kMmaCols + 8;
constexpr int kChunk = 8;  // elements moved at once

template <class T>
struct alignas(16) Chunk {
  T item[kChunk];
};

// tile[r][0 .. kDepth) = rows r0 .. of v from column c0, zero outside; `wide` rows are whole, aligned chunks.
template <class T, int kRows, int kColumns, int kPitch>
__device__ inline void fill_chunks(const ValueMatrix<T>& v, int64_t b, int64_t r0, int64_t c0, bool wide,
                                   T (&tile)[kRows][kPitch]) {
  const T* from = v.data + b * v.batch_stride;
  for (int i = threadIdx.x; i < kRows * kColumns / kChunk; i += kSoftThreads) {
    constexpr int kChunks = kColumns / kChunk;
    const int r = kChunks == 4 ? spread_row(i / kChunks) : i / kChunks;
    const int c = i % kChunks * kChunk;
    Chunk<T> chunk = {};
    if (r0 + r < v.rows) {
      const T* row = from + (r0 + r) * v.row_stride + c0 + c;
      if (wide && c0 + c < v.width) {
        chunk = *reinterpret_cast<const Chunk<T>*>(row);
      } else {
#pragma unroll
        for (int k = 0; k < kChunk; ++k) {
          if (c0 + c + k < v.width) chunk.item[k] = row[k];
        }
      }
    }
    *reinterpret_cast<Chunk<T>*>(&tile[r][c]) = chunk;
  }
}

template <class T, class L>
__device__ inline void fill_rounded_weights(const LogitMatrix<L>& l, const SoftWeigh& s, int64_t b, int64_t r0,
                                            int64_t k0, T (&tile)[kSoftRows][kMmaPitch]) {
  const L* from = l.data + b * l.batch_stride;
  for (int i = threadIdx.x; i < kSoftRows * kMmaDepth; i += kSoftThreads) {
    const bool along_rows = l.col_stride != 1;
    const int r = along_rows ? i % kSoftRows : i / kMmaDepth;
    const int k = along_rows ? i / kSoftRows : i % kMmaDepth;
    float weight = 0.0f;
    if (r0 + r < l.rows && k0 + k < l.cols) {
      const int64_t row = b * l.rows + r0 + r;
      const int64_t col = b * l.cols + k0 + k;
      const float shift = (s.row_shift ? s.row_shift[row] : 0.0f) + (s.col_shift ? s.col_shift[col] : 0.0f);
      weight = expf(to_float(from[(r0 + r) * l.row_stride + (k0 + k) * l.col_stride]) - shift);
      if (s.col_scale) weight *= s.col_scale[col];
    }
    tile[r][k] = from_float<T>(weight);
  }
}

// The 16 x 16 block of a row-major tile from (row, col).
template <class T, int kPitch>
__device__ inline void load_left(const T* tile, int row, int col, uint32_t (&a)[4]) {
  const int lane = threadIdx.x % 32;
  ldmatrix_x4(a, tile + (row + lane % 16) * kPitch + col + lane / 16 * 8);
}

// sum = weights times values over tokens, without totals: out = row_scale * sum.
template <class T, class L>
__global__ void __launch_bounds__(kSoftThreads)
    soft_aggregate_mma_kernel(LogitMatrix<L> l, SoftWeigh s, ValueMatrix<T> v, const float* row_scale, bool wide,
                              T* out, int64_t row_blocks, int64_t col_blocks) {
  constexpr int kTiles = kMmaCols / 2 / 8;  // of 8 columns, in a warp
  TK_SHARED(weights, T[kSoftRows][kMmaPitch]);
  TK_SHARED(values, T[kMmaDepth][kMmaColsPitch]);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int warp_row = warp % 4 * 16;
  const int warp_col = warp / 4 * (kMmaCols / 2);
  const int64_t b = blockIdx.x / col_blocks / row_blocks;
  const int64_t r0 = blockIdx.x / col_blocks % row_blocks * kSoftRows;
  const int64_t c0 = blockIdx.x % col_blocks * kMmaCols;
  float sum[kTiles][4] = {};
  for (int64_t k0 = 0; k0 < l.cols; k0 += kMmaDepth) {
    fill_rounded_weights<T, L>(l, s, b, r0, k0, weights);
    fill_chunks<T, kMmaDepth, kMmaCols, kMmaColsPitch>(v, b, k0, c0, wide, values);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kMmaDepth; k += 16) {
      uint32_t left[4];
      load_left<T, kMmaPitch>(&weights[0][0], warp_row, k, left);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        uint32_t right[2];
        ldmatrix_x2_trans(right, &values[k + lane % 16][warp_col + n * 8]);
        mma_m16n8k16<T>(sum[n], left, right);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t r = r0 + warp_row + lane / 4 + half * 8;
    if (r >= l.rows) continue;
    const int64_t row = b * l.rows + r;
    const float scale = row_scale ? row_scale[row] : 1.0f;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int64_t c = c0 + warp_col + n * 8 + lane % 4 * 2 + j;
        if (c < v.width) out[row * v.width + c] = from_float<T>(scale * sum[n][half * 2 + j]);
      }
    }
  }
}

// product[n][..] of a 64 x 64 tile of left . right^T along the channels: row of d[0 .. 1] is warp_row + lane / 4, of
// d[2 .. 3] 8 more; column is warp_col + 8 n + lane % 4 * 2.
template <class T>
struct DotTile {
  static constexpr int kTiles = 4;
  float item[kTiles][4] = {};

  __device__ static int row(int half) { return threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4 + half * 8; }
  __device__ static int col(int n, int j) { return threadIdx.x / 128 * 32 + n * 8 + threadIdx.x % 4 * 2 + j; }

  __device__ void add(const T (&left)[kSoftRows][kMmaPitch], const T (&right)[kSoftRows][kMmaPitch]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < kMmaDepth; k += 16) {
      uint32_t a[4];
      load_left<T, kMmaPitch>(&left[0][0], threadIdx.x / 32 % 4 * 16, k, a);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        uint32_t b[2];
        ldmatrix_x2(b, &right[threadIdx.x / 128 * 32 + n * 8 + lane % 8][k + lane / 8 % 2 * 8]);
        mma_m16n8k16<T>(item[n], a, b);
      }
    }
  }
};

}  // namespace tk::merge::gpu
