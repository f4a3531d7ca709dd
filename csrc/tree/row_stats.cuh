// SPDX-License-Identifier: Apache-2.0
// One block a row: every thread keeps the sums and the two best of its own items, then a fixed tree joins threads.
#pragma once
#include "core/gpu.cuh"
#include "tree/row_stats.h"
#include "tree/row_sums.h"
#include "tree/two_best.h"

namespace tk::tree::gpu {

constexpr int kRowThreads = 512;

struct RowFacts {
  RowSums sums;
  TwoBest best;
};

__device__ __forceinline__ void add_logit(RowSums* s, float logit, float scale) {
  if (exceeds_shift(logit, scale, s->shift)) *s = move_shift(*s, shift_at(logit, scale));
  const float above = above_shift(logit, scale, s->shift);
  const float power = exp2f(above);
  s->sum += power;
  s->weighted += power * (above < kLeastPower ? kLeastPower : above);
}

__device__ __forceinline__ Candidate shuffled(Candidate c, int lanes) {
  return {__shfl_xor_sync(kAllLanes, c.key, lanes), __shfl_xor_sync(kAllLanes, c.index, lanes)};
}

// What lane l and lane l ^ lanes have, the same in both.
__device__ __forceinline__ RowFacts join_lanes(RowFacts own, int lanes) {
  const RowSums sums{__shfl_xor_sync(kAllLanes, own.sums.shift, lanes), __shfl_xor_sync(kAllLanes, own.sums.sum, lanes),
                     __shfl_xor_sync(kAllLanes, own.sums.weighted, lanes)};
  const Candidate first = shuffled(own.best.first, lanes);
  const Candidate second = shuffled(own.best.second, lanes);
  offer(&own.best, first);
  offer(&own.best, second);
  return {join_sums(own.sums, sums), own.best};
}

// Every thread gets what the whole block knows.
__device__ __forceinline__ RowFacts join_block(RowFacts own) {
  TK_SHARED(warps, RowFacts[kRowThreads / 32]);
  for (int lanes = 16; lanes > 0; lanes /= 2) own = join_lanes(own, lanes);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = own;
  __syncthreads();
  RowFacts all = warps[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) {
    all.sums = join_sums(all.sums, warps[w].sums);
    offer(&all.best, warps[w].best.first);
    offer(&all.best, warps[w].best.second);
  }
  return all;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) row_stats_kernel(RowStatsArgs a) {
  const int64_t row = blockIdx.x;
  const T* logits = logits_row<T>(a, row);
  RowFacts own{no_sums(), no_best()};
  for (int64_t j = threadIdx.x; j < a.width; j += blockDim.x) {
    const float logit = to_float(logits[j]);
    add_logit(&own.sums, logit, a.scale);
    offer(&own.best, {score_key(logit), j});
  }
  const RowFacts all = join_block(own);
  for (int64_t k = threadIdx.x; k < a.named; k += blockDim.x) {
    a.p_ids[row * a.named + k] = share_of(all.sums, to_float(logits[a.ids[row * a.named + k]]), a.scale);
  }
  if (threadIdx.x >= 2) return;
  const int64_t index = threadIdx.x == 0 ? all.best.first.index : all.best.second.index;
  a.best[2 * row + threadIdx.x] = index;
  a.p_best[2 * row + threadIdx.x] = index < 0 ? 0.0f : share_of(all.sums, to_float(logits[index]), a.scale);
  if (threadIdx.x == 0) a.lse[row] = log_sum(all.sums);
  if (threadIdx.x == 1) a.entropy[row] = row_entropy(all.sums);
}

}  // namespace tk::tree::gpu
