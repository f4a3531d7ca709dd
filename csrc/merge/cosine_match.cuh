// SPDX-License-Identifier: Apache-2.0
// The best <a, b> / |b| of every row by core/best_column.cuh; |a| only scales the answer, so it comes last.
#pragma once
#include "core/best_column.cuh"
#include "merge/cosine_match.h"

namespace tk::merge::gpu {

// Where the device keeps what lies between its kernels.
struct MatchScratch {
  float* inverse_a;  // (B, Na): 0 for a zero vector, NaN for one that is not finite
  float* inverse_b;  // (B, Nb): likewise, and NaN for a column that is masked
  float* score;      // (splits, B, Na): best <a, b> / |b| of one range of columns
  int* index;        // (splits, B, Na)
};

// ---- norms: one warp a row ------------------------------------------------------------------------------------------
template <class T>
__global__ void __launch_bounds__(kNormThreads) match_norms_kernel(CosineMatchArgs a, MatchScratch s) {
  const int lane = threadIdx.x % 32;
  const int64_t item = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  const int64_t a_rows = a.batch * a.rows;
  const int64_t b_rows = a.batch * a.columns;
  if (item < a_rows) {
    const T* x = static_cast<const T*>(a.a) + item / a.rows * a.a_batch_stride + item % a.rows * a.a_row_stride;
    const float inverse = inverse_root(warp_squares(x, a.width, lane));
    if (lane == 0) s.inverse_a[item] = inverse;
  } else if (item < a_rows + b_rows) {
    const int64_t j = item - a_rows;
    const T* x = static_cast<const T*>(a.b) + j / a.columns * a.b_batch_stride + j % a.columns * a.b_row_stride;
    const float inverse = inverse_root(warp_squares(x, a.width, lane));
    if (lane == 0) s.inverse_b[j] = a.mask_b && !a.mask_b[j] ? not_a_number() : inverse;
  }
}

// ---- scores and answers ---------------------------------------------------------------------------------------------
struct CosineScore {
  const float* of;  // inverse norm of each column of one sample
  TK_HOST_DEVICE float operator()(float product, float inverse) const { return product * inverse; }
};

__device__ __forceinline__ void write_match(const CosineMatchArgs& a, int64_t row, BestColumn best, float inverse) {
  const bool matched = best.score > -kInfinity && inverse == inverse && (!a.mask_a || a.mask_a[row]);
  int64_t index = best.index;
  if (!matched) {
    const uint8_t* mask = a.mask_b ? a.mask_b + row / a.rows * a.columns : nullptr;
    for (index = 0; mask && index < a.columns && !mask[index];) ++index;
    if (index == a.columns) index = 0;
  }
  a.score[row] = matched ? best.score * inverse : -kInfinity;
  a.index[row] = index;
}

struct FinishMatch {
  const CosineMatchArgs& a;
  const MatchScratch& s;
  const SearchTask& task;
  int64_t splits;

  __device__ __forceinline__ void operator()(int64_t in_tile, BestColumn best) const {
    if (task.first_row + in_tile >= a.rows) return;
    const int64_t row = task.b * a.rows + task.first_row + in_tile;
    if (splits == 1) return write_match(a, row, best, s.inverse_a[row]);
    s.score[task.split * a.batch * a.rows + row] = best.score;
    s.index[task.split * a.batch * a.rows + row] = best.index;
  }
};

// Combines the ranges of columns, in ascending order.
template <class Unused>
__global__ void __launch_bounds__(kNormThreads) match_splits_kernel(CosineMatchArgs a, MatchScratch s, int64_t splits) {
  const int64_t row = int64_t{blockIdx.x} * kNormThreads + threadIdx.x;
  const int64_t rows = a.batch * a.rows;
  if (row >= rows) return;
  BestColumn best;
  for (int64_t k = 0; k < splits; ++k) best.offer(s.score[k * rows + row], s.index[k * rows + row]);
  write_match(a, row, best, s.inverse_a[row]);
}

template <class T, class Tile, bool kAligned>
__device__ __forceinline__ void match_tile(const CosineMatchArgs& a, const DeviceSearch& search, const MatchScratch& s,
                                           TileBuffers<Tile>& buffers) {
  const SearchTask task = search_task(search);
  const CosineScore score{s.inverse_b + task.b * a.columns};
  search_tile<BestColumn, T, T, Tile, kAligned>(search, task, score, buffers, FinishMatch{a, s, task, search.splits});
}

template <bool kAligned>
__global__ void __launch_bounds__(kSearchThreads)
    match_float32_kernel(CosineMatchArgs a, DeviceSearch search, MatchScratch s) {
  TK_SHARED(buffers, TileBuffers<FmaTile>);
  match_tile<float, FmaTile, kAligned>(a, search, s, buffers);
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kSearchThreads)
    match_mma_kernel(CosineMatchArgs a, DeviceSearch search, MatchScratch s) {
  TK_SHARED(buffers, TileBuffers<MmaTile<T>>);
  match_tile<T, MmaTile<T>, kAligned>(a, search, s, buffers);
}

}  // namespace tk::merge::gpu
