// SPDX-License-Identifier: Apache-2.0
// Pieces are marked, counted and written: one thread reads a part of the text, from its first certain boundary to the
// first of a later part, and sets a byte for every byte of it: 1 where a piece ends. Tiles of marks are then counted,
// the counts summed up, and the ends written in order.
#pragma once
#include "bpe/safe_cut.h"
#include "bpe/scan.h"
#include "bpe/split.h"
#include "core/gpu.cuh"

namespace tk::bpe::gpu {

constexpr int kSplitThreads = 256;
constexpr int64_t kSplitPart = 128;  // bytes of text a thread, unless the caller wants others
constexpr int kMarksPerThread = 16;
constexpr int64_t kMarkTile = int64_t{kSplitThreads} * kMarksPerThread;

struct Marks {
  uint8_t* mark;  // (N)
  int64_t* tile;  // by tile: how many marks; then how many before it
  int64_t tiles;
};

// Every byte belongs to the thread of the last certain boundary at or before it.
template <Pattern pattern>
__global__ void __launch_bounds__(kSplitThreads, 4) mark_pieces_kernel(SplitArgs a, Marks marks) {
  const int64_t from = (int64_t{blockIdx.x} * kSplitThreads + threadIdx.x) * a.part;
  if (from >= a.size) return;
  const uint8_t* end = a.text + a.size;
  const uint8_t* high = a.size - from > a.part ? a.text + from + a.part : end;
  const uint8_t* p = safe_cut(pattern, a.text + from, high, a.text, end);
  if (p == high) return;
  const uint8_t* stop = safe_cut(pattern, high, end, a.text, end);
  while (p < stop) {
    const uint8_t* next = Scanner<pattern>::next(p, end);
    for (; p < next; ++p) marks.mark[p - a.text] = p + 1 == next;
  }
}

// Marks of this thread's stretch of the tile of its block.
template <class Unused>
__device__ inline int count_marks(const SplitArgs& a, const Marks& marks, int64_t first) {
  int count = 0;
  for (int i = 0; i < kMarksPerThread; ++i) count += first + i < a.size && marks.mark[first + i];
  return count;
}

// What the threads before this one hold, and all of the block.
struct BlockSum {
  int64_t before, total;
};

template <int kThreads>
__device__ inline BlockSum sum_before(int64_t value) {
  TK_SHARED(sums, int64_t[kThreads / 32]);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  auto sum = static_cast<unsigned long long>(value);
  for (int step = 1; step < 32; step *= 2) {
    const unsigned long long other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();  // the sums of the last round have been read
  if (lane == 31) sums[warp] = static_cast<int64_t>(sum);
  __syncthreads();
  BlockSum result{static_cast<int64_t>(sum) - value, 0};
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w < warp) result.before += sums[w];
    result.total += sums[w];
  }
  return result;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) count_marks_kernel(SplitArgs a, Marks marks) {
  const int64_t first = int64_t{blockIdx.x} * kMarkTile + threadIdx.x * kMarksPerThread;
  const BlockSum sum = sum_before<kThreads>(count_marks<void>(a, marks, first));
  if (threadIdx.x == 0) marks.tile[blockIdx.x] = sum.total;
}

// By one block.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) sum_tiles_kernel(SplitArgs a, Marks marks) {
  int64_t total = 0;
  for (int64_t start = 0; start < marks.tiles; start += kThreads) {
    const int64_t i = start + threadIdx.x;
    const BlockSum sum = sum_before<kThreads>(i < marks.tiles ? marks.tile[i] : 0);
    if (i < marks.tiles) marks.tile[i] = total + sum.before;
    total += sum.total;
  }
  if (threadIdx.x == 0) *a.count = total;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) write_ends_kernel(SplitArgs a, Marks marks) {
  const int64_t first = int64_t{blockIdx.x} * kMarkTile + threadIdx.x * kMarksPerThread;
  int64_t place = marks.tile[blockIdx.x] + sum_before<kThreads>(count_marks<void>(a, marks, first)).before;
  for (int i = 0; i < kMarksPerThread; ++i) {
    if (first + i < a.size && marks.mark[first + i]) a.ends[place++] = first + i + 1;
  }
}

}  // namespace tk::bpe::gpu
