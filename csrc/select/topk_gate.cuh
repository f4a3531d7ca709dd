// SPDX-License-Identifier: Apache-2.0
// Few experts: a warp takes a row, its keys in registers, and finds the best k one after the other. Many: a block takes
// a row, as in topk. Occurrences are counted in integers, first of all in shared memory.
#pragma once
#include "core/sort_pairs.cuh"
#include "select/gate_warps.cuh"
#include "select/key_cut.cuh"
#include "select/topk_gate.h"

namespace tk::selection::gpu {

constexpr int kGateWarps = 8;
constexpr int kGateBlock = kGateWarps * 32;
constexpr int kGateWarpRows = 4;  // that a warp takes, one after the other
constexpr int64_t kGateBlockRows = kGateWarps * kGateWarpRows;
constexpr int kMostKeys = 8;  // of a lane
constexpr int kWarpExperts = 32 * kMostKeys;

__global__ void __launch_bounds__(kGateBlock) clear_gate_counts_kernel(int64_t* counts, int64_t total) {
  const int64_t i = int64_t{blockIdx.x} * kGateBlock + threadIdx.x;
  if (i < total) counts[i] = 0;
}

__device__ __forceinline__ void add_count(int64_t* counts, int64_t e, int64_t n) {
  atomicAdd(reinterpret_cast<unsigned long long*>(counts + e), static_cast<unsigned long long>(n));
}

struct Candidate {
  uint32_t key;
  uint32_t expert;
};

// The best candidate of the warp: of equal keys the lowest expert.
__device__ __forceinline__ Candidate best_of_warp(Candidate c) {
  for (int half = 16; half > 0; half /= 2) {
    const uint32_t key = __shfl_xor_sync(kAllLanes, c.key, half);
    const uint32_t expert = __shfl_xor_sync(kAllLanes, c.expert, half);
    if (key > c.key || (key == c.key && expert < c.expert)) c = {key, expert};
  }
  return c;
}

// Keys of one row: lane l holds those of experts l, l + 32 .. No key is 0 but that of a taken expert.
template <int V>
struct LaneKeys {
  uint32_t key[V];

  template <class T>
  __device__ LaneKeys(const T* logits, int64_t n) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t e = threadIdx.x % 32 + 32 * v;
      key[v] = e < n ? score_key(to_float(logits[e])) : 0;
    }
  }
  __device__ Candidate best() const {
    Candidate c{key[0], threadIdx.x % 32};
#pragma unroll
    for (int v = 1; v < V; ++v) {
      if (key[v] > c.key) c = {key[v], threadIdx.x % 32 + 32u * v};
    }
    return c;
  }
  __device__ void take(uint32_t expert) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (threadIdx.x % 32 + 32u * v == expert) key[v] = 0;
    }
  }
};

// The i-th choice of a row is written, and later divided, by lane i % 32.
template <int V, class T>
__device__ __forceinline__ void gate_row_by_warp(const TopkGateArgs& a, int64_t row, unsigned* count) {
  const unsigned lane = threadIdx.x % 32;
  const T* logits = score_row<T>(a.logits, row);
  const RowSoftmax softmax = warp_softmax(logits, a.logits.width);
  LaneKeys<V> keys(logits, a.logits.width);
  float total = 0.0f;
  for (int64_t i = 0; i < a.k; ++i) {
    const Candidate c = best_of_warp(keys.best());
    keys.take(c.expert);
    const float p = softmax(key_score(c.key));
    total += p;
    if (lane != i % 32) continue;
    a.index[row * a.k + i] = c.expert;
    a.weight[row * a.k + i] = p;
    atomicAdd(&count[c.expert], 1u);
  }
  if (!a.normalize) return;
  for (int64_t i = lane; i < a.k; i += 32) a.weight[row * a.k + i] /= total;
}

// `blocks` of a sample.
template <class T, int V>
__global__ void __launch_bounds__(kGateBlock) gate_warps_kernel(TopkGateArgs a, int64_t blocks) {
  TK_SHARED(count, unsigned[32 * V]);
  for (int e = threadIdx.x; e < 32 * V; e += kGateBlock) count[e] = 0;
  __syncthreads();
  const int64_t b = blockIdx.x / blocks;
  const int64_t first = blockIdx.x % blocks * kGateBlockRows + threadIdx.x / 32;
  for (int r = 0; r < kGateWarpRows; ++r) {
    const int64_t t = first + r * kGateWarps;
    if (t < a.tokens) gate_row_by_warp<V, T>(a, b * a.tokens + t, count);
  }
  __syncthreads();
  for (int64_t e = threadIdx.x; e < a.logits.width; e += kGateBlock) {
    if (count[e] != 0) add_count(a.counts + b * a.logits.width, e, count[e]);
  }
}

// `size` is a power of two, at least k.
template <class T>
__global__ void __launch_bounds__(kThreads) gate_block_kernel(TopkGateArgs a, int64_t size) {
  TK_DYNAMIC_SHARED(uint64_t, pairs);
  const int64_t row = blockIdx.x;
  const int64_t n = a.logits.width;
  const RowKeys<T> keys = row_keys<T>(a.logits, row);
  const KeyCut cut = find_key_cut(keys, a.k);
  for (int64_t i = a.k + threadIdx.x; i < size; i += blockDim.x) pairs[i] = ~uint64_t{0};
  walk_items(keys, cut, PairChosen<RowKeys<T>>{keys, pairs});
  __syncthreads();
  sort_pairs(pairs, size);
  const RowSoftmax softmax = block_softmax(keys.score, n);
  float total = 0.0f;
  for (int64_t i = threadIdx.x; i < a.k; i += blockDim.x) {
    const auto e = static_cast<int64_t>(pairs[i] & 0xffffffffu);
    const float p = softmax(to_float(keys.score[e]));
    total += p;
    a.index[row * a.k + i] = e;
    a.weight[row * a.k + i] = p;
    add_count(a.counts + row / a.tokens * n, e, 1);
  }
  if (!a.normalize) return;
  total = across_warps(warp_sum(total), Plus());
  for (int64_t i = threadIdx.x; i < a.k; i += blockDim.x) a.weight[row * a.k + i] /= total;
}

}  // namespace tk::selection::gpu
