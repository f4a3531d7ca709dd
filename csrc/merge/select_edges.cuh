// SPDX-License-Identifier: Apache-2.0
// One block a sample: a bitonic sort of (key, row) pairs in shared memory, or in the workspace where they do not fit.
#pragma once
#include "core/gpu.cuh"
#include "core/sort_pairs.cuh"
#include "merge/edge_key.h"

namespace tk::merge::gpu {

constexpr int kEdgeThreads = 1024;  // at most
constexpr uint64_t kNoRow = ~uint64_t{0};

TK_INLINE uint32_t high_half(uint64_t pair) { return static_cast<uint32_t>(pair >> 32); }
TK_INLINE int64_t row_of(uint64_t pair) { return static_cast<int64_t>(pair & 0xffffffffu); }

// Calls place(k, column) for every column that counts, k ascending from 0.
template <class Place>
__device__ __forceinline__ void for_counted_columns(const SelectEdgesArgs& a, int64_t b, const Place& place) {
  TK_SHARED(warp_counts, int[kEdgeThreads / 32]);
  const unsigned lane = threadIdx.x % 32;
  int64_t before = 0;
  for (int64_t first = 0; first < a.columns; first += blockDim.x) {
    const int64_t j = first + threadIdx.x;
    const bool counts = j < a.columns && column_counts(a, b, j);
    const unsigned ballot = __ballot_sync(kAllLanes, counts);
    if (lane == 0) warp_counts[threadIdx.x / 32] = __popc(ballot);
    __syncthreads();
    int64_t k = before + __popc(ballot & ((1u << lane) - 1u));
    for (unsigned w = 0; w < blockDim.x / 32; ++w) {
      if (w < threadIdx.x / 32) k += warp_counts[w];
      before += warp_counts[w];
    }
    if (counts) place(k, j);
    __syncthreads();
  }
}

// Writes one value of the map; a token out of range, which only a device may be given, is passed over.
struct TokenMap {
  int64_t* map;
  int64_t tokens;
  TK_HOST_DEVICE bool has(int64_t token) const { return token >= 0 && token < tokens; }
  TK_HOST_DEVICE void set(int64_t token, int64_t value) const {
    if (has(token)) map[token] = value;
  }
};

struct PlaceColumn {
  const SelectEdgesArgs& a;
  int64_t b, unmerged;
  TokenMap map;
  TK_HOST_DEVICE void operator()(int64_t k, int64_t column) const {
    map.set(column_token(a, b, column), column_position(a, k, unmerged));
  }
};

__device__ __forceinline__ void write_sample(const SelectEdgesArgs& a, int64_t b, const uint64_t* pairs, int64_t taken,
                                             int64_t counted) {
  const TokenMap map{a.map + b * a.tokens, a.tokens};
  for (int64_t n = threadIdx.x; n < a.tokens; n += blockDim.x) map.map[n] = -1;
  __syncthreads();
  const int64_t unmerged = counted - taken;
  int64_t* unm = a.unm + b * unmerged_width(a);
  for (int64_t k = threadIdx.x; k < unmerged_width(a); k += blockDim.x) {
    unm[k] = k < unmerged ? row_of(pairs[taken + k]) : -1;
    if (k < unmerged) map.set(row_token(a, b, row_of(pairs[taken + k])), unmerged_position(a, k));
  }
  for_counted_columns(a, b, PlaceColumn{a, b, unmerged, map});
  __syncthreads();
  for (int64_t i = threadIdx.x; i < a.edges; i += blockDim.x) {
    const int64_t row = i < taken ? row_of(pairs[i]) : -1;
    const int64_t column = i < taken ? a.index[b * a.rows + row] : -1;
    a.src[b * a.edges + i] = row;
    a.dst[b * a.edges + i] = column;
    if (column < 0 || column >= a.columns) continue;
    const int64_t into = column_token(a, b, column);
    map.set(row_token(a, b, row), map.has(into) ? map.map[into] : -1);
  }
}

// `size` is a power of two, at least a.rows. `spill` is null where the pairs fit shared memory.
template <class Unused>
__global__ void __launch_bounds__(kEdgeThreads) select_edges_kernel(SelectEdgesArgs a, uint64_t* spill, int64_t size) {
  TK_DYNAMIC_SHARED(uint64_t, shared_pairs);
  TK_SHARED(counted, int64_t);
  const int64_t b = blockIdx.x;
  uint64_t* pairs = spill ? spill + b * size : shared_pairs;
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
    pairs[i] = i < a.rows ? uint64_t{edge_key(a, b, i)} << 32 | static_cast<uint64_t>(i) : kNoRow;
  }
  if (threadIdx.x == 0) counted = 0;
  __syncthreads();
  sort_pairs(pairs, size);
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
    const bool last = i + 1 == size || high_half(pairs[i + 1]) == kPaddingKey;
    if (last && high_half(pairs[i]) != kPaddingKey) counted = i + 1;
  }
  __syncthreads();
  const int64_t rows = counted;
  const int64_t takeable = rows > 0 && high_half(pairs[rows - 1]) == kClassKey ? rows - 1 : rows;
  int64_t taken = a.take ? a.take[b] : a.edges;
  taken = taken < 0 ? 0 : taken > a.edges ? a.edges : taken;
  if (taken > takeable) taken = takeable;
  if (a.sort_unmerged) {  // the rows that merge keep their ranks, the others follow by position
    __syncthreads();
    for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) {
      const uint64_t row = pairs[i] & 0xffffffffu;
      pairs[i] = (i < taken ? static_cast<uint64_t>(i) : 0x80000000u + row) << 32 | row;
    }
    for (int64_t i = rows + threadIdx.x; i < size; i += blockDim.x) pairs[i] = kNoRow;
    __syncthreads();
    sort_pairs(pairs, size);
  }
  write_sample(a, b, pairs, taken, rows);
}

}  // namespace tk::merge::gpu
