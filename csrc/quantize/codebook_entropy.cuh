// SPDX-License-Identifier: Apache-2.0
// Parts of all codes say what they know of a tile of rows; joined, they normalise the probabilities, which are made
// again for the sums over rows, and for entropies with a guarded logarithm.
#pragma once
#include "quantize/codebook_entropy.h"
#include "quantize/soft_rows.cuh"

namespace tk::quantize::gpu {

// p = 2^(base (score - top) - log_sum)
struct Normaliser {
  float* top;
  float* log_sum;
};

__global__ void __launch_bounds__(kSoftThreads)
    codebook_entropy_join_kernel(CodebookEntropyArgs a, SoftPair p, const SoftStats* parts, int64_t parts_count,
                                 Normaliser to) {
  const int64_t row = int64_t{blockIdx.x} * kSoftThreads + threadIdx.x;
  if (row >= a.books * a.rows) return;
  const SoftStats all = joined_parts(parts, parts_count, a.rows, row, p.base);
  const float log_sum = logf(all.sum);
  to.top[row] = all.top;
  to.log_sum[row] = log2f(all.sum);
  a.lse[row] = (all.top + p.rows.bias[row]) * a.inv_temperature + log_sum;
  a.entropy[row] = log_sum - kSoftLn2 * (all.weighted / all.sum);
}

// Sums of p log(max(p, floor) + add).
struct GuardRule {
  using State = float;
  float base;
  SoftGuard guard;
  Normaliser norm;
  int64_t rows;
  float* parts;  // [book][part][row]
  __device__ __forceinline__ State begin() const { return 0.0f; }
  __device__ __forceinline__ void meet(State* s, int64_t book, int64_t row, int64_t, float score) const {
    const int64_t at = book * rows + row;
    const float p = exp2f((score - norm.top[at]) * base - norm.log_sum[at]);
    *s += p * logf(guard.guarded(p));
  }
  __device__ __forceinline__ State whole(const State& s) const { return sum_of_row(s); }
};

// One block a tile of codes and a part of the rows: parts[book][part][code].
template <class T>
__global__ void __launch_bounds__(kSoftThreads)
    soft_columns_kernel(SoftPair p, int64_t tiles, Normaliser norm, SoftShare share, float* parts) {
  TK_SHARED(ls, float[kSoftDepth][kSoftPitch]);
  TK_SHARED(rs, float[kSoftDepth][kSoftPitch]);
  TK_SHARED(columns, float[16][kSoftTile]);
  const int64_t book = blockIdx.x / tiles;
  const int64_t r0 = blockIdx.x % tiles * kSoftTile;
  const int64_t row_tiles = (p.rows.count + kSoftTile - 1) / kSoftTile;
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
  float total[kSoftSide] = {};
  float sum[kSoftSide][kSoftSide];
  for (int64_t tile = row_tiles * blockIdx.y / gridDim.y; tile < row_tiles * (blockIdx.y + 1) / gridDim.y; ++tile) {
    const int64_t l0 = tile * kSoftTile;
    tile_products<T>(p.rows, l0, p.codes, r0, book, p.width, ls, rs, sum);
#pragma unroll
    for (int i = 0; i < kSoftSide; ++i) {
      const int64_t n = l0 + ty * kSoftSide + i;
      const float part = n < p.rows.count ? share.of(book, n) : 0.0f;
      if (part == 0.0f) continue;
      const int64_t at = book * p.rows.count + n;
#pragma unroll
      for (int j = 0; j < kSoftSide; ++j) {
        const int64_t k = r0 + tx + 16 * j;
        if (k >= p.codes.count) continue;
        const int64_t code = book * p.codes.count + k;
        const float score = fmaf(sum[i][j] * p.rows.scale[at], p.codes.scale[code], p.codes.bias[code]);
        total[j] += part * exp2f((score - norm.top[at]) * p.base - norm.log_sum[at]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kSoftSide; ++j) columns[ty][tx + 16 * j] = total[j];
  __syncthreads();
  const int64_t k = r0 + threadIdx.x;
  if (threadIdx.x >= kSoftTile || k >= p.codes.count) return;
  float all = 0.0f;
  for (int i = 0; i < 16; ++i) all += columns[i][threadIdx.x];
  parts[(book * gridDim.y + blockIdx.y) * p.codes.count + k] = all;
}

}  // namespace tk::quantize::gpu
