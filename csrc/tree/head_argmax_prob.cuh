// SPDX-License-Identifier: Apache-2.0
// The tiles of core/best_column.cuh, with W as columns: blocks share out W, and every thread keeps, for its rows of h,
// the best logit and the sum behind the softmax. Lanes, then blocks, are joined in a fixed order.
#pragma once
#include "core/best_column.cuh"
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

// ---- rows of h x a range of W
// -----------------------------------------------------------------------------------------
__device__ __forceinline__ void keep(const DeviceSearch& s, const SearchTask& task, int64_t in_tile,
                                     const HeadBest& best, HeadBest* parts) {
  const int64_t row = task.first_row + in_tile;
  if (row < s.rows) parts[task.split * s.rows + row] = best;
}

template <bool kAligned>
__global__ void __launch_bounds__(kSearchThreads) head_float32_kernel(DeviceSearch s, HeadBest* parts) {
  TK_SHARED(rows, float[kStages32 * kSearchRows * kPitch32]);
  TK_SHARED(columns, float[kStages32 * kSearchColumns * kPitch32]);
  const SearchTask task = search_task(s);
  auto stream = tile_stream<float, kDepth32, kPitch32, kStages32, kAligned>(s, task, rows, columns);
  const int tx = threadIdx.x % kLaneColumns;
  HeadBest best[kThreadRows];
#pragma unroll
  for (int i = 0; i < kThreadRows; ++i) best[i] = no_logits();
  float sum[kThreadRows][kThreadColumns] = {};
  stream.start();
  for (SearchStep at{task.tile_begin, 0, 0}; at.tile < task.tile_end; at.advance(stream.chunks, kStages32)) {
    stream.await_step();
    multiply_tile32(rows + at.stage * stream.kRowElements, columns + at.stage * stream.kColumnElements, sum);
    if (at.chunk + 1 < stream.chunks) continue;
#pragma unroll
    for (int j = 0; j < kThreadColumns; ++j) {
      const int64_t column = at.tile * kSearchColumns + tx + kLaneColumns * j;
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i) {
        if (column < s.columns) add_logit(&best[i], sum[i][j], static_cast<int>(column));
        sum[i][j] = 0;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kThreadRows; ++i) {
    const HeadBest row = join_lanes<kLaneColumns>(best[i]);
    if (tx == 0) keep(s, task, threadIdx.x / kLaneColumns + kLaneRows * i, row, parts);
  }
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kSearchThreads) head_mma_kernel(DeviceSearch s, HeadBest* parts) {
  TK_SHARED(rows, T[kStages16 * kSearchRows * kPitch16]);
  TK_SHARED(columns, T[kStages16 * kSearchColumns * kPitch16]);
  const SearchTask task = search_task(s);
  auto stream = tile_stream<T, kDepth16, kPitch16, kStages16, kAligned>(s, task, rows, columns);
  const int lane = threadIdx.x % 32;
  HeadBest best[2] = {no_logits(), no_logits()};
  float sum[kColumnGroups][4] = {};
  stream.start();
  for (SearchStep at{task.tile_begin, 0, 0}; at.tile < task.tile_end; at.advance(stream.chunks, kStages16)) {
    stream.await_step();
    multiply_tile16(rows + at.stage * stream.kRowElements, columns + at.stage * stream.kColumnElements, sum);
    if (at.chunk + 1 < stream.chunks) continue;
#pragma unroll
    for (int g = 0; g < kColumnGroups; ++g) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {  // two columns of two rows
        const int64_t column = at.tile * kSearchColumns + g * 8 + lane % 4 * 2 + e % 2;
        if (column < s.columns) add_logit(&best[e / 2], sum[g][e], static_cast<int>(column));
        sum[g][e] = 0;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const HeadBest row = join_lanes<4>(best[r]);
    if (lane % 4 == 0) keep(s, task, threadIdx.x / 32 * kWarpRows + lane / 4 + 8 * r, row, parts);
  }
}

// ---- ranges of W, in their order
// --------------------------------------------------------------------------------------
template <class Unused>
__global__ void __launch_bounds__(kJoinThreads)
    head_join_kernel(HeadArgmaxProbArgs a, const HeadBest* parts, int64_t splits) {
  const int64_t n = int64_t{blockIdx.x} * kJoinThreads + threadIdx.x;
  if (n >= a.rows) return;
  HeadBest best = parts[n];
  for (int64_t k = 1; k < splits; ++k) best = join_best(best, parts[k * a.rows + n]);
  const float prob = power(best.top - best.shift) / best.sum;
  a.id[n] = best.id < 0 ? 0 : best.id;
  a.prob[n] = prob > 1.0f ? 1.0f : prob;
}

}  // namespace tk::tree::gpu
