// SPDX-License-Identifier: Apache-2.0
// One block a row: the k-th largest key by four rounds of counting in shared memory, eight bits a round, and the walk
// over the chosen items. Keys are made from the scores anew in every round.
#pragma once
#include "core/gpu.cuh"
#include "select/score_rows.h"

namespace tk::selection::gpu {

constexpr int kThreads = 512;
constexpr int kDigitBits = 8;
constexpr int kBins = 1 << kDigitBits;
constexpr int kLaneBins = kBins / 32;  // bins that a lane of the first warp looks through

// One row of a ScoreRows.
template <class T>
struct RowKeys {
  const T* score;
  const uint8_t* mask;
  int64_t n;
  TK_HOST_DEVICE uint32_t operator()(int64_t j) const {
    return mask && !mask[j] ? kMaskedKey : score_key(to_float(score[j]));
  }
};

template <class T>
__device__ __forceinline__ RowKeys<T> row_keys(const ScoreRows& s, int64_t row) {
  return {score_row<T>(s, row), mask_row(s, row), s.width};
}

// By the first warp, largest bin first: writes the bin where the count reaches `left`, and what is left for it.
__device__ __forceinline__ void find_bin(const unsigned* count, int64_t left, unsigned* bin, int64_t* left_in_bin) {
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * kLaneBins;
  unsigned own = 0;
  for (int i = 0; i < kLaneBins; ++i) own += count[top - i];
  unsigned through = own;  // this lane's bins and those above
  for (unsigned step = 1; step < 32; step *= 2) {
    const unsigned above = __shfl_up_sync(kAllLanes, through, step);
    if (threadIdx.x >= step) through += above;
  }
  int64_t rest = left - (through - own);
  if (rest <= 0 || left > through) return;  // not in this lane's bins
  int b = top;
  for (; count[b] < rest; --b) rest -= count[b];
  *bin = static_cast<unsigned>(b);
  *left_in_bin = rest;
}

// 1 <= k <= n; every thread gets the cut.
template <class Keys>
__device__ __forceinline__ KeyCut find_key_cut(const Keys& keys, int64_t k) {
  TK_SHARED(count, unsigned[kBins]);
  TK_SHARED(bin, unsigned);
  TK_SHARED(left, int64_t);
  KeyCut cut{0, k};
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (int b = threadIdx.x; b < kBins; b += blockDim.x) count[b] = 0;
    __syncthreads();
    for (int64_t j = threadIdx.x; j < keys.n; j += blockDim.x) {
      const uint32_t key = keys(j) ^ cut.key;  // the digits found so far become zeros
      if (uint64_t{key} >> (shift + kDigitBits) == 0) atomicAdd(&count[key >> shift], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) find_bin(count, cut.ties, &bin, &left);
    __syncthreads();
    cut.key |= bin << shift;
    cut.ties = left;
    __syncthreads();
  }
  return cut;
}

// Calls place(j, chosen, position) for every item; `position` counts the chosen ones before it.
template <class Keys, class Place>
__device__ __forceinline__ void walk_items(const Keys& keys, KeyCut cut, const Place& place) {
  TK_SHARED(warp_above, int[kThreads / 32]);
  TK_SHARED(warp_equal, int[kThreads / 32]);
  const unsigned lane = threadIdx.x % 32;
  const unsigned warp = threadIdx.x / 32;
  const unsigned lower = (1u << lane) - 1u;
  int64_t above = 0;  // in the chunks before
  int64_t equal = 0;
  for (int64_t first = 0; first < keys.n; first += blockDim.x) {
    const int64_t j = first + threadIdx.x;
    const uint32_t key = j < keys.n ? keys(j) : 0;
    const unsigned above_lanes = __ballot_sync(kAllLanes, j < keys.n && key > cut.key);
    const unsigned equal_lanes = __ballot_sync(kAllLanes, j < keys.n && key == cut.key);
    if (lane == 0) {
      warp_above[warp] = __popc(above_lanes);
      warp_equal[warp] = __popc(equal_lanes);
    }
    __syncthreads();
    int64_t above_before = above + __popc(above_lanes & lower);
    int64_t equal_before = equal + __popc(equal_lanes & lower);
    for (unsigned w = 0; w < blockDim.x / 32; ++w) {
      if (w < warp) above_before += warp_above[w];
      if (w < warp) equal_before += warp_equal[w];
      above += warp_above[w];
      equal += warp_equal[w];
    }
    const bool chosen = key > cut.key || (key == cut.key && equal_before < cut.ties);
    if (j < keys.n) place(j, chosen, above_before + (equal_before < cut.ties ? equal_before : cut.ties));
    __syncthreads();
  }
}

// Pairs that sort as the items do: the best key first, of equals the lowest index.
template <class Keys>
struct PairChosen {
  const Keys& keys;
  uint64_t* pairs;
  TK_HOST_DEVICE void operator()(int64_t j, bool chosen, int64_t position) const {
    if (chosen) pairs[position] = uint64_t{~keys(j)} << 32 | static_cast<uint64_t>(j);
  }
};

struct MarkChosen {
  uint8_t* out;
  TK_HOST_DEVICE void operator()(int64_t j, bool chosen, int64_t) const { out[j] = chosen; }
};

}  // namespace tk::selection::gpu
