// SPDX-License-Identifier: Apache-2.0
// Prefix sums over a whole array, in three launches: sums of tiles, their prefix sums, and the prefixes of the items.
// What is summed and where the sums go is up to the caller:
//   Source: unsigned long long operator()(int64_t i) const; read twice
//   Sink:   void operator()(int64_t i, unsigned long long before) const, with the sum of all items before i
// Sums are taken modulo 2^64, so that their order does not matter.
#pragma once
#include "core/gpu.cuh"

namespace tk {

constexpr int kPrefixThreads = 256;
constexpr int kPrefixRounds = 8;
constexpr int64_t kPrefixTile = int64_t{kPrefixThreads} * kPrefixRounds;  // items that one block sums

TK_HOST_DEVICE inline int64_t prefix_tiles(int64_t items) { return (items + kPrefixTile - 1) / kPrefixTile; }

// The sum of `own` over all threads before this one, and over all; whole blocks of kThreads.
template <int kThreads>
__device__ __forceinline__ unsigned long long block_prefix(unsigned long long own, unsigned long long* all) {
  TK_SHARED(parts, unsigned long long[kThreads / 32]);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  unsigned long long inclusive = own;
  for (int step = 1; step < 32; step *= 2) {
    const unsigned long long before = __shfl_up_sync(kAllLanes, inclusive, step);
    if (lane >= step) inclusive += before;
  }
  if (lane == 31) parts[warp] = inclusive;
  __syncthreads();
  unsigned long long earlier = 0;
  unsigned long long sum = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w < warp) earlier += parts[w];
    sum += parts[w];
  }
  __syncthreads();  // parts may be written again
  *all = sum;
  return earlier + inclusive - own;
}

template <class Source>
__global__ void __launch_bounds__(kPrefixThreads)
    tile_sums_kernel(Source source, int64_t items, unsigned long long* sums) {
  unsigned long long own = 0;
  for (int round = 0; round < kPrefixRounds; ++round) {
    const int64_t i = blockIdx.x * kPrefixTile + round * kPrefixThreads + threadIdx.x;
    if (i < items) own += source(i);
  }
  unsigned long long all = 0;
  block_prefix<kPrefixThreads>(own, &all);
  if (threadIdx.x == 0) sums[blockIdx.x] = all;
}

// In place, by one block; total may be null.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    scan_tiles_kernel(unsigned long long* sums, int64_t tiles, unsigned long long* total) {
  unsigned long long carry = 0;
  for (int64_t start = 0; start < tiles; start += kThreads) {
    const int64_t i = start + threadIdx.x;
    unsigned long long all = 0;
    const unsigned long long before = block_prefix<kThreads>(i < tiles ? sums[i] : 0, &all);
    if (i < tiles) sums[i] = carry + before;
    carry += all;
  }
  if (threadIdx.x == 0 && total) *total = carry;
}

template <class Source, class Sink>
__global__ void __launch_bounds__(kPrefixThreads)
    emit_prefixes_kernel(Source source, Sink sink, int64_t items, const unsigned long long* sums) {
  unsigned long long carry = sums[blockIdx.x];
  for (int round = 0; round < kPrefixRounds; ++round) {
    const int64_t i = blockIdx.x * kPrefixTile + round * kPrefixThreads + threadIdx.x;
    unsigned long long all = 0;
    const unsigned long long before = block_prefix<kPrefixThreads>(i < items ? source(i) : 0, &all);
    if (i < items) sink(i, carry + before);
    carry += all;
  }
}

// The first two launches: sums (prefix_tiles(items)) then holds the sum before each tile, and *total that of all.
template <class Source>
inline void prefix_of_tiles(Source source, int64_t items, unsigned long long* sums, unsigned long long* total,
                            void* stream) {
  const int64_t tiles = prefix_tiles(items);
  if (tiles) {
    launch(tile_sums_kernel<Source>, dim3(static_cast<unsigned>(tiles)), dim3(kPrefixThreads), 0, stream, source, items,
           sums);
  }
  launch(scan_tiles_kernel<1024>, dim3(1), dim3(1024), 0, stream, sums, tiles, total);
}

template <class Source, class Sink>
inline void prefix_sums(Source source, Sink sink, int64_t items, unsigned long long* sums, unsigned long long* total,
                        void* stream) {
  prefix_of_tiles(source, items, sums, total, stream);
  if (items == 0) return;
  launch(emit_prefixes_kernel<Source, Sink>, dim3(static_cast<unsigned>(prefix_tiles(items))), dim3(kPrefixThreads), 0,
         stream, source, sink, items, sums);
}

}  // namespace tk
