// SPDX-License-Identifier: Apache-2.0
// Merging the bytes of one piece on a device: by one warp, tokens in registers, or by one block, tokens in memory.
//
// Both go from round to round: the smallest rank of all neighbours, then its merges, from left to right without
// overlap. Where the ranks of every token's history ascend (DeviceVocab::ascending), a merge of rank r only makes pairs
// of a larger rank (by induction bytes inside a token merge in any context as they do alone), so that all occurrences
// of r merge in one round, as one after the other would; otherwise a round is one merge, the leftmost.
#pragma once
#include "bpe/device_vocab.h"
#include "core/gpu.cuh"

namespace tk::bpe::gpu {

constexpr int kWarpPiece = 32;  // bytes that a warp merges
constexpr uint32_t kNoKey = 0xffffffffu;
constexpr int32_t kUnknownRank = -2;  // of a pair that has to be looked up again
constexpr int32_t kNoPair = -1;

__device__ __forceinline__ uint32_t warp_smallest(uint32_t x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = min(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// What remains of lane i's byte: its token if the token begins there, else -1. `token` is that of the byte, -1 for
// none: such bytes are left out. Ranks are below 2^27, so that a rank and a lane are one word.
__device__ __forceinline__ int32_t merge_in_warp(const DeviceVocab& v, int32_t token) {
  const int lane = threadIdx.x % 32;
  unsigned alive = __ballot_sync(kAllLanes, token >= 0);
  unsigned merged = alive;  // lanes whose token is new
  uint32_t key = kNoKey;
  int32_t result = -1;
  for (;;) {
    const bool here = (alive >> lane & 1u) != 0;
    const unsigned behind = alive & ~((2u << lane) - 1u);
    const int next = behind ? __ffs(static_cast<int>(behind)) - 1 : lane;
    const int32_t right = __shfl_sync(kAllLanes, token, next);
    if (!here || !behind) {
      key = kNoKey;
    } else if (((merged >> lane | merged >> next) & 1u) != 0) {
      const DevicePair pair = look_up_pair(v, token, right);
      key = pair.rank < 0 ? kNoKey : static_cast<uint32_t>(pair.rank) << 5 | static_cast<uint32_t>(lane);
      result = pair.result;
    }
    const uint32_t best = warp_smallest(key);
    if (best == kNoKey) return here ? token : -1;
    const unsigned smallest = __ballot_sync(kAllLanes, key != kNoKey && key >> 5 == best >> 5);
    unsigned open = v.ascending ? smallest : 1u << (best & 31u);
    merged = 0;
    while (open) {  // the same in every lane
      const int left = __ffs(static_cast<int>(open)) - 1;
      const unsigned others = alive & ~((2u << left) - 1u);
      const unsigned gone = others & (0u - others);  // the lowest bit: its right neighbour
      merged |= 1u << left;
      alive &= ~gone;
      open &= ~(gone | 1u << left);
    }
    if ((merged >> lane & 1u) != 0) token = result;
  }
}

// The smallest word of a block, in every thread; whole warps.
template <int kThreads>
__device__ __forceinline__ unsigned long long block_smallest(unsigned long long x) {
  TK_SHARED(parts, unsigned long long[kThreads / 32]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(kAllLanes, x, step);
    if (other < x) x = other;
  }
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  for (int w = 0; w < kThreads / 32; ++w) {
    if (parts[w] < x) x = parts[w];
  }
  __syncthreads();
  return x;
}

// Whether the element before warp `warp` of a tile is chosen: a run of candidates is chosen every other time from its
// start, 32 candidates change nothing, and `carry` speaks for the tile before.
__device__ __forceinline__ bool chosen_before(const unsigned* candidates, int warp, bool carry) {
  while (warp > 0 && candidates[warp - 1] == kAllLanes) --warp;
  if (warp == 0) return carry;
  return (__clz(static_cast<int>(~candidates[warp - 1])) & 1) != 0;
}

// Which of a warp's candidates are chosen.
__device__ __forceinline__ bool is_chosen(unsigned candidates, int lane, bool before) {
  if ((candidates >> lane & 1u) == 0) return false;
  const unsigned others = ~candidates & ((1u << lane) - 1u);
  if (others) return ((lane - (32 - __clz(static_cast<int>(others)))) & 1) == 0;
  return ((lane + (before ? 1 : 0)) & 1) == 0;
}

// One round over n tokens: merges and closes up, and returns how many are left. The pairs that changed get
// kUnknownRank. A candidate is a pair of rank `rank`, or with `at` >= 0 just that place.
template <int kThreads>
__device__ __forceinline__ int64_t merge_round(const DeviceVocab& v, int32_t* token, int32_t* rank, int64_t n,
                                               int32_t best, int64_t at) {
  constexpr int kWarps = kThreads / 32;
  TK_SHARED(candidates, unsigned[kWarps]);
  TK_SHARED(kept, unsigned[kWarps]);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  bool carry = false;
  int64_t place = 0;
  const auto is_candidate = [=](int64_t i) { return i + 1 < n && (at < 0 ? rank[i] == best : i == at); };
  for (int64_t start = 0; start < n; start += kThreads) {
    const int64_t i = start + threadIdx.x;
    const unsigned own = __ballot_sync(kAllLanes, is_candidate(i));
    if (lane == 0) candidates[warp] = own;
    __syncthreads();
    const bool before = chosen_before(candidates, warp, carry);
    const bool chosen = is_chosen(own, lane, before);
    const unsigned all_chosen = __ballot_sync(kAllLanes, chosen);
    const bool gone = lane == 0 ? before : (all_chosen >> (lane - 1) & 1u) != 0;
    const bool stays = i < n && !gone;
    const unsigned all_kept = __ballot_sync(kAllLanes, stays);
    if (lane == 0) kept[warp] = all_kept;
    int32_t new_token = stays ? token[i] : -1;
    int32_t new_rank = stays ? rank[i] : kNoPair;
    if (chosen) {
      new_token = look_up_pair(v, token[i], token[i + 1]).result;
      new_rank = kUnknownRank;
    } else if (stays && is_candidate(i + 1)) {  // its right neighbour is chosen
      new_rank = kUnknownRank;
    }
    carry = chosen_before(candidates, kWarps, carry);
    __syncthreads();  // everything of this tile has been read
    int64_t to = place + __popc(all_kept & ((1u << lane) - 1u));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) to += __popc(kept[w]);
      place += __popc(kept[w]);
    }
    if (stays) {
      token[to] = new_token;
      rank[to] = new_rank;
    }
    __syncthreads();
  }
  return place;
}

// n tokens of bytes, -1 for bytes that are left out; returns how many tokens there are in the end, at the start of
// `token`. Both arrays have room for n.
template <int kThreads>
__device__ __forceinline__ int64_t merge_in_block(const DeviceVocab& v, int32_t* token, int32_t* rank, int64_t n) {
  for (;;) {
    unsigned long long key = ~0ull;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      int32_t own = rank[i];
      if (own == kUnknownRank) own = rank[i] = i + 1 < n ? look_up_pair(v, token[i], token[i + 1]).rank : kNoPair;
      const unsigned long long here = static_cast<unsigned long long>(own) << 32 | static_cast<unsigned long long>(i);
      if (own >= 0 && here < key) key = here;
    }
    const unsigned long long best = block_smallest<kThreads>(key);
    if (best == ~0ull) return n;
    n = merge_round<kThreads>(v, token, rank, n, static_cast<int32_t>(best >> 32),
                              v.ascending ? -1 : static_cast<int64_t>(best & 0xffffffffu));
  }
}

}  // namespace tk::bpe::gpu
