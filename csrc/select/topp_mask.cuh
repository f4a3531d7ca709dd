// SPDX-License-Identifier: Apache-2.0
// One block a row: mass and number of the items by the digits of their keys, four rounds of eight bits, then one walk.
#pragma once
#include "select/key_cut.cuh"
#include "select/topp_mask.h"

namespace tk::selection::gpu {

template <class T>
struct RowShares {
  const T* prob;
  const float* weight;
  int64_t n;
  TK_HOST_DEVICE float mass(int64_t j) const { return to_float(prob[j]) * (weight ? weight[j] : 1.0f); }
  TK_HOST_DEVICE uint32_t operator()(int64_t j) const { return share_key(cut_share(mass(j))); }
};

struct MassBin {
  int64_t mass;  // of the items of higher bins
  int64_t position;
  unsigned bin;
  unsigned found;  // 0: the mass never runs out
};

// By the first warp, largest bin first: the first bin by whose end the mass has run out.
__device__ __forceinline__ void find_mass_bin(const unsigned long long* mass, const unsigned* count, int64_t limit,
                                              int64_t forced, MassBin* from) {
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * kLaneBins;
  int64_t own_mass = 0;
  int64_t own_count = 0;
  for (int i = 0; i < kLaneBins; ++i) {
    own_mass += static_cast<int64_t>(mass[top - i]);
    own_count += count[top - i];
  }
  int64_t mass_through = from->mass + own_mass;
  int64_t count_through = from->position + own_count;
  if (threadIdx.x > 0) {
    mass_through = own_mass;
    count_through = own_count;
  }
  for (unsigned step = 1; step < 32; step *= 2) {
    const int64_t mass_above = __shfl_up_sync(kAllLanes, mass_through, step);
    const int64_t count_above = __shfl_up_sync(kAllLanes, count_through, step);
    if (threadIdx.x >= step) mass_through += mass_above;
    if (threadIdx.x >= step) count_through += count_above;
  }
  int64_t mass_before = mass_through - own_mass;
  int64_t position = count_through - own_count;
  const bool out = mass_through > limit && count_through >= forced;
  const bool out_before = __shfl_up_sync(kAllLanes, static_cast<int>(out), 1u) != 0 && threadIdx.x > 0;
  __syncwarp();
  if (!out || out_before) return;
  int b = top;
  while (mass_before + static_cast<int64_t>(mass[b]) <= limit || position + count[b] < forced) {
    mass_before += static_cast<int64_t>(mass[b]);
    position += count[b--];
  }
  *from = MassBin{mass_before, position, static_cast<unsigned>(b), 1};
}

template <class T>
__device__ __forceinline__ KeyCut find_mass_cut(const RowShares<T>& shares, int64_t limit, int64_t forced) {
  TK_SHARED(mass, unsigned long long[kBins]);
  TK_SHARED(count, unsigned[kBins]);
  TK_SHARED(at, MassBin);
  uint32_t key = 0;
  int64_t ties = 0;
  if (threadIdx.x == 0) at = MassBin{0, 0, 0, 0};
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (int b = threadIdx.x; b < kBins; b += blockDim.x) {
      mass[b] = 0;
      count[b] = 0;
    }
    __syncthreads();
    for (int64_t j = threadIdx.x; j < shares.n; j += blockDim.x) {
      const uint32_t own = shares(j);
      const uint32_t rest = own ^ key;
      if (uint64_t{rest} >> (shift + kDigitBits) != 0) continue;
      atomicAdd(&mass[rest >> shift], static_cast<unsigned long long>(mass_units(key_share(own))));
      atomicAdd(&count[rest >> shift], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) find_mass_bin(mass, count, limit, forced, &at);
    __syncthreads();
    if (!at.found) return {0, kAllTies};  // only the first round can end so
    key |= at.bin << shift;
    ties = count[at.bin];
    const int64_t unit = mass_units(key_share(key));
    if (shift == 0) ties = kept_ties(ties, unit, at.mass, at.position, limit, forced);
    __syncthreads();
  }
  return {key, ties};
}

template <class T>
__global__ void __launch_bounds__(kThreads) topp_mask_kernel(ToppMaskArgs a) {
  TK_SHARED(invalid, int);
  const int64_t row = blockIdx.x;
  const RowShares<T> shares{score_row<T>(a.from, row), weight_row(a, row), a.from.width};
  if (threadIdx.x == 0) invalid = a.limit == kNoLimit;
  __syncthreads();
  for (int64_t j = threadIdx.x; j < shares.n; j += blockDim.x) {
    const float mass = shares.mass(j);
    if (!(mass == mass)) atomicOr(&invalid, 1);
  }
  __syncthreads();
  const KeyCut cut = invalid ? KeyCut{0, kAllTies} : find_mass_cut(shares, a.limit, a.forced);
  walk_items(shares, cut, MarkChosen{a.out + row * a.from.width});
}

}  // namespace tk::selection::gpu
