// SPDX-License-Identifier: Apache-2.0
// The tiles of core/column_tiles.cuh, with W as columns: blocks share out W, and every thread keeps, for its rows of h,
// the best logit and the sum behind the softmax. Lanes, then blocks, are joined in a fixed order.
#pragma once
#include "core/column_tiles.cuh"
#include "tree/head_argmax_prob.h"

namespace tk::tree::gpu {

constexpr int kNormRowThreads = 128;
constexpr int kJoinThreads = 128;

// ---- what some logits of a row say ----------------------------------------------------------------------------------
struct HeadBest {
  float top;  // the largest that is a number
  int id;     // of it; -1 before the first
  float shift, sum;
};

TK_INLINE float power(float x) { return exp2f(x * kHeadLog2E); }

TK_INLINE HeadBest no_logits() { return {-kInfinity, -1, kNoHeadShift, 0.0f}; }

TK_INLINE void add_logit(HeadBest* best, float logit, int id) {
  if (logit > best->top || (best->id < 0 && logit == logit)) {
    best->top = logit;
    best->id = id;
  }
  if (logit > best->shift + kHeadSlack) {
    best->sum *= power(best->shift - logit);
    best->shift = logit;
  }
  best->sum += power(logit - best->shift);
}

// The same whichever comes first.
TK_INLINE HeadBest join_best(const HeadBest& a, const HeadBest& b) {
  const bool second = b.id >= 0 && (a.id < 0 || b.top > a.top || (b.top == a.top && b.id < a.id));
  const float shift = fmaxf(a.shift, b.shift);
  const float sum = a.sum * power(a.shift - shift) + b.sum * power(b.shift - shift);
  return {second ? b.top : a.top, second ? b.id : a.id, shift, sum};
}

// kLanes neighbours share a row.
template <int kLanes>
__device__ __forceinline__ HeadBest join_lanes(HeadBest best) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const HeadBest other{__shfl_xor_sync(kAllLanes, best.top, step), __shfl_xor_sync(kAllLanes, best.id, step),
                         __shfl_xor_sync(kAllLanes, best.shift, step), __shfl_xor_sync(kAllLanes, best.sum, step)};
    best = join_best(best, other);
  }
  return best;
}

// ---- the norm: one block a row --------------------------------------------------------------------------------------
template <class T>
__global__ void __launch_bounds__(kNormRowThreads) head_norm_kernel(HeadArgmaxProbArgs a, T* out) {
  TK_SHARED(warps, float[kNormRowThreads / 32]);
  const int64_t n = blockIdx.x;
  const T* h = static_cast<const T*>(a.h) + n * a.h_row_stride;
  float squares = 0;
  for (int64_t d = threadIdx.x; d < a.width; d += kNormRowThreads)
    squares = fmaf(to_float(h[d]), to_float(h[d]), squares);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(kAllLanes, squares, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = squares;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int w = 0; w < kNormRowThreads / 32; ++w) total += warps[w];
  const float inverse = 1.0f / sqrtf(total / static_cast<float>(a.width) + a.eps);
  const T* weight = static_cast<const T*>(a.norm_weight);
  for (int64_t d = threadIdx.x; d < a.width; d += kNormRowThreads) {
    const float unit = to_float(from_float<T>(to_float(h[d]) * inverse));
    out[n * a.width + d] = from_float<T>(unit * to_float(weight[d]));
  }
}

// ---- rows of h x a range of W ---------------------------------------------------------------------------------------
template <class Tile>
struct AddLogits {
  int64_t columns;
  HeadBest best[Tile::kRows];

  __device__ __forceinline__ void operator()(int64_t first, Tile& products) {
#pragma unroll
    for (int j = 0; j < Tile::kColumns; ++j) {
      const int64_t column = first + Tile::column(j);
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i) {
        if (column < columns) add_logit(&best[i], products.at(i, j), static_cast<int>(column));
      }
    }
  }
};

template <class T, class Tile, bool kAligned>
__device__ __forceinline__ void head_tile(const DeviceSearch& s, TileBuffers<Tile>& buffers, HeadBest* parts) {
  const SearchTask task = search_task(s);
  AddLogits<Tile> logits;
  logits.columns = s.columns;
#pragma unroll
  for (int i = 0; i < Tile::kRows; ++i) logits.best[i] = no_logits();
  walk_tiles<T, T, Tile, kAligned>(s, task, buffers, logits);
#pragma unroll
  for (int i = 0; i < Tile::kRows; ++i) {
    const HeadBest best = join_lanes<Tile::kLanes>(logits.best[i]);
    const int64_t row = task.first_row + Tile::row(i);
    if (threadIdx.x % Tile::kLanes == 0 && row < s.rows) parts[task.split * s.rows + row] = best;
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(kSearchThreads) head_float32_kernel(DeviceSearch s, HeadBest* parts) {
  TK_SHARED(buffers, TileBuffers<FmaTile>);
  head_tile<float, FmaTile, kAligned>(s, buffers, parts);
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kSearchThreads) head_mma_kernel(DeviceSearch s, HeadBest* parts) {
  TK_SHARED(buffers, TileBuffers<MmaTile<T>>);
  head_tile<T, MmaTile<T>, kAligned>(s, buffers, parts);
}

// ---- ranges of W: a warp a row
// ----------------------------------------------------------------------------------------
template <class Unused>
__global__ void __launch_bounds__(kJoinThreads)
    head_join_kernel(HeadArgmaxProbArgs a, const HeadBest* parts, int64_t splits) {
  const int lane = threadIdx.x % 32;
  const int64_t n = (int64_t{blockIdx.x} * kJoinThreads + threadIdx.x) / 32;
  if (n >= a.rows) return;
  HeadBest best = no_logits();
  for (int64_t k = lane; k < splits; k += 32) best = join_best(best, parts[k * a.rows + n]);
  best = join_lanes<32>(best);
  if (lane > 0) return;
  const float prob = power(best.top - best.shift) / best.sum;
  a.id[n] = best.id < 0 ? 0 : best.id;
  a.prob[n] = prob > 1.0f ? 1.0f : prob;
}

}  // namespace tk::tree::gpu
