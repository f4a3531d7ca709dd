// SPDX-License-Identifier: Apache-2.0
// One block owns a row: every round takes one token a thread, ranks the kept ones with ballots inside a warp and with a
// scan of the warps' counts, and writes them in order.
#pragma once
#include "core/gpu.cuh"
#include "merge/compact_rows.h"

namespace tk::merge::gpu {

constexpr int kCompactThreads = 256;
constexpr int kCompactWarps = kCompactThreads / 32;

// Kept tokens of the whole block, the same in every thread, and how many of them come before this thread.
struct Ranked {
  int before, total;
};

template <int kThreads>
__device__ inline Ranked rank_kept(bool kept) {
  TK_SHARED(counts, int[kThreads / 32]);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const unsigned ballot = __ballot_sync(kAllLanes, kept);
  __syncthreads();  // the counts of the last round have been read
  if (lane == 0) counts[warp] = __popc(ballot);
  __syncthreads();
  Ranked rank{__popc(ballot & ((1u << lane) - 1u)), 0};
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w < warp) rank.before += counts[w];
    rank.total += counts[w];
  }
  return rank;
}

// counts[b + 1] = kept tokens of row b.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) count_rows_kernel(CountRowsArgs a) {
  const uint8_t* mask = a.mask + int64_t{blockIdx.x} * a.mask_batch_stride;
  int64_t kept = 0;
  for (int64_t start = 0; start < a.tokens; start += kThreads) {
    const int64_t n = start + threadIdx.x;
    kept += rank_kept<kThreads>(n < a.tokens && mask[n] != 0).total;
  }
  if (threadIdx.x == 0) a.cu_seqlens[blockIdx.x + 1] = kept;
}

// Running sums by one warp, 32 rows at a time.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) sum_counts_kernel(CountRowsArgs a) {
  const int lane = threadIdx.x;
  int64_t total = 0;
  for (int64_t start = 0; start < a.batch; start += 32) {
    const int64_t b = start + lane;
    unsigned long long sum = b < a.batch ? static_cast<unsigned long long>(a.cu_seqlens[b + 1]) : 0;
    for (int step = 1; step < 32; step *= 2) {
      const unsigned long long other = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= step) sum += other;
    }
    if (b < a.batch) a.cu_seqlens[b + 1] = total + static_cast<int64_t>(sum);
    total += static_cast<int64_t>(__shfl_sync(kAllLanes, sum, 31));
  }
  if (lane == 0) a.cu_seqlens[0] = 0;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) compact_rows_kernel(CompactRowsArgs a) {
  const int64_t b = blockIdx.x;
  const uint8_t* mask = a.mask + b * a.mask_batch_stride;
  const int64_t end = a.cu_seqlens[b + 1];
  int64_t place = a.cu_seqlens[b];
  for (int64_t start = 0; start < a.tokens; start += kThreads) {
    const int64_t n = start + threadIdx.x;
    const bool kept = n < a.tokens && mask[n] != 0;
    const Ranked rank = rank_kept<kThreads>(kept);
    if (kept && place + rank.before < end) a.index[place + rank.before] = b * a.tokens + n;
    place += rank.total;
  }
}

}  // namespace tk::merge::gpu
