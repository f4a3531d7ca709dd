// SPDX-License-Identifier: Apache-2.0
// Rows of probabilities by one block, all of whose threads take part in every function here and get the same answer.
#pragma once
#include "core/gpu.cuh"
#include "tree/entropy.h"

namespace tk::tree::gpu {

constexpr int kMassThreads = 512;  // most of a block

// Few threads where a row is short.
inline int64_t mass_threads(int64_t width) { return width >= 4096 ? kMassThreads : width > 512 ? 128 : 32; }

__device__ __forceinline__ int64_t warp_sum(int64_t x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

struct BlockSum {
  int64_t sum;
  bool all;  // whether `valid` was true in every thread
};

// Everything written before is seen by every thread after.
__device__ __forceinline__ BlockSum block_sum(int64_t x, bool valid) {
  TK_SHARED(sums, int64_t[kMassThreads / 32]);
  TK_SHARED(valids, int[kMassThreads / 32]);
  x = warp_sum(x);
  valid = __all_sync(kAllLanes, valid) != 0;
  if (threadIdx.x % 32 == 0) {
    sums[threadIdx.x / 32] = x;
    valids[threadIdx.x / 32] = valid;
  }
  __syncthreads();
  BlockSum all{0, true};
  for (unsigned w = 0; w < blockDim.x / 32; ++w) {
    all.sum += sums[w];
    all.all = all.all && valids[w] != 0;
  }
  __syncthreads();
  return all;
}

// A row on its way through a walk: items in workspace.
struct BlockRow {
  float* items;
  int64_t mass;
  float scale;
};

__device__ __forceinline__ void weigh(BlockRow* row, int64_t mass) {
  row->mass = mass;
  row->scale = scale_of(mass);
}

// Copies a row and weighs it; false where it is no distribution.
template <class T>
__device__ __forceinline__ bool read_row(const T* from, int64_t width, int64_t slack, BlockRow* row) {
  __syncthreads();  // nobody reads the old items any more
  int64_t units = 0;
  bool valid = true;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) {
    const float item = to_float(from[j]);
    valid = valid && is_probability(item);
    row->items[j] = item;
    units += mass_units(static_cast<double>(item));
  }
  const BlockSum all = block_sum(units, valid);
  weigh(row, all.sum);
  return all.all && is_whole(all.sum, slack);
}

// next = max(p - q, 0), both scaled; false where nothing is left.
__device__ __forceinline__ bool subtract_row(const BlockRow& p, const BlockRow& q, int64_t width, BlockRow* next) {
  __syncthreads();
  int64_t units = 0;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) {
    const float item = residual_item(p.items[j], p.scale, q.items[j], q.scale);
    next->items[j] = item;
    units += mass_units(static_cast<double>(item));
  }
  const int64_t mass = block_sum(units, true).sum;
  if (mass <= 0) return false;
  weigh(next, mass);
  return true;
}

// Without an item; false, and nothing happens, where nothing else has mass.
__device__ __forceinline__ bool remove_item(BlockRow* row, int64_t x) {
  const int64_t mass = row->mass - mass_units(static_cast<double>(row->items[x]));
  if (mass <= 0) return false;
  weigh(row, mass);
  __syncthreads();
  if (threadIdx.x == 0) row->items[x] = 0.0f;
  __syncthreads();
  return true;
}

// By one warp: the first of the items [begin, end) whose running mass is above `drawn`, or -1.
__device__ __forceinline__ int64_t find_item(const BlockRow& row, int64_t begin, int64_t end, int64_t running,
                                             int64_t drawn) {
  const int lane = threadIdx.x % 32;
  for (int64_t first = begin; first < end; first += 32) {
    int64_t through = 0;
    if (first + lane < end) through = mass_units(scaled(row.items[first + lane], row.scale));
    for (int step = 1; step < 32; step *= 2) {
      const int64_t before = __shfl_up_sync(kAllLanes, through, step);
      if (lane >= step) through += before;
    }
    const unsigned found = __ballot_sync(kAllLanes, running + through > drawn);
    if (found != 0) return first + __ffs(static_cast<int>(found)) - 1;
    running += __shfl_sync(kAllLanes, through, 31);
  }
  return -1;
}

// The item drawn by u. Every warp weighs a part of the row; the one whose part it is in finds it.
__device__ __forceinline__ int64_t draw_item(const BlockRow& row, int64_t width, float u) {
  TK_SHARED(parts, int64_t[kMassThreads / 32]);
  TK_SHARED(item, int64_t);
  const unsigned warps = blockDim.x / 32;
  const unsigned warp = threadIdx.x / 32;
  const int64_t part = (width + warps - 1) / warps;
  const int64_t begin = warp * part;
  const int64_t end = begin + part < width ? begin + part : width;
  int64_t units = 0;
  for (int64_t j = begin + threadIdx.x % 32; j < end; j += 32) units += mass_units(scaled(row.items[j], row.scale));
  units = warp_sum(units);
  if (threadIdx.x % 32 == 0) parts[warp] = units;
  if (threadIdx.x == 0) item = -1;
  __syncthreads();
  int64_t mass = 0;
  for (unsigned w = 0; w < warps; ++w) mass += parts[w];
  const int64_t drawn = drawn_mass(u, mass);
  int64_t running = 0;
  unsigned owner = 0;
  while (owner + 1 < warps && running + parts[owner] <= drawn) running += parts[owner++];
  if (warp == owner) {
    const int64_t found = find_item(row, begin, end, running, drawn);
    if (threadIdx.x % 32 == 0) item = found;
  }
  __syncthreads();
  const int64_t answer = item;
  __syncthreads();
  return answer;
}

// The units of all items of the entropy of a row, below zero.
__device__ __forceinline__ int64_t entropy_units(const BlockRow& row, int64_t width) {
  int64_t units = 0;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) {
    units += mass_units(entropy_item<ScalarNumbers>(static_cast<double>(row.items[j]), row.scale));
  }
  return block_sum(units, true).sum;
}

}  // namespace tk::tree::gpu
