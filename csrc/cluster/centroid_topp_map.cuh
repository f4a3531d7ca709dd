// SPDX-License-Identifier: Apache-2.0
// A block takes a few query rows of one head. First all its threads compute scores, each for one key at a time; then
// every warp turns the scores of one row into shares and finds the cut by a binary search over the bits of their keys:
// 30 sums over the row, of integers, instead of a sort.
#pragma once
#include "cluster/centroid_topp_map.h"
#include "core/gpu.cuh"

namespace tk::cluster::gpu {

constexpr int kMapThreads = 256;
constexpr int kMapRows = kMapThreads / 32;  // one a warp
constexpr int kMapDepth = 16;               // of the tile of keys in shared memory
constexpr int kTopBit = 29;                 // a share is at most 1, whose key is below 2^30

struct MassAndCount {
  int64_t mass;
  int count;
};

// Of the clusters whose key is at least `least`; every lane gets both.
__device__ __forceinline__ MassAndCount sum_above(const float* shares, int64_t keys, uint32_t least) {
  MassAndCount sum{0, 0};
  for (int64_t j = threadIdx.x % 32; j < keys; j += 32) {
    const float share = shares[j];
    if (share_key(share) < least) continue;
    sum.mass += mass_units(share);
    ++sum.count;
  }
  for (int step = 16; step > 0; step /= 2) {
    sum.mass += __shfl_xor_sync(kAllLanes, sum.mass, step);
    sum.count += __shfl_xor_sync(kAllLanes, sum.count, step);
  }
  return sum;
}

__device__ __forceinline__ bool runs_out(const MassAndCount& sum, const CentroidToppMapArgs& a) {
  return sum.mass > a.limit && sum.count >= a.forced;
}

__device__ __forceinline__ MapCut find_cut(const float* shares, const CentroidToppMapArgs& a) {
  if (!runs_out(sum_above(shares, a.keys, 0), a)) return {0, a.keys};
  uint32_t key = 0;  // the largest at which the mass has run out
  for (int bit = kTopBit; bit >= 0; --bit) {
    const uint32_t trial = key | 1u << bit;
    if (runs_out(sum_above(shares, a.keys, trial), a)) key = trial;
  }
  const MassAndCount above = sum_above(shares, a.keys, key + 1);
  return {key, kept_ties(a.keys, mass_units(key_share(key)), above.mass, above.count, a.limit, a.forced)};
}

__device__ __forceinline__ void write_map(const float* shares, int64_t keys, MapCut cut, uint8_t* map) {
  const unsigned lane = threadIdx.x % 32;
  for (int64_t first = 0; first < keys; first += 32) {
    const int64_t j = first + lane;
    const uint32_t key = j < keys ? share_key(shares[j]) : 0;
    const unsigned ties = __ballot_sync(kAllLanes, j < keys && key == cut.key);
    const int before = __popc(ties & ((1u << lane) - 1u));
    if (j < keys) map[j] = key > cut.key || (key == cut.key && before < cut.ties);
    cut.ties -= __popc(ties);
  }
}

// Scores become shares, by one warp; false where they are NaN.
__device__ __forceinline__ bool make_shares(float* scores, const int64_t* sizes, int64_t keys) {
  const int64_t lane = threadIdx.x % 32;
  float top = -kInfinity;
  for (int64_t j = lane; j < keys; j += 32) top = fmaxf(top, scores[j]);
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, step));
  float sum = 0.0f;
  for (int64_t j = lane; j < keys; j += 32) {
    const float share = static_cast<float>(sizes[j]) * expf(scores[j] - top);
    scores[j] = share;
    sum += share;
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  const float total = fmaxf(sum, kLeastMass);
  for (int64_t j = lane; j < keys; j += 32) scores[j] /= total;
  __syncwarp();
  return sum == sum;
}

// Scores of kMapRows rows from `first` on; rows past the end are computed as zeros and never read.
template <class T>
__device__ __forceinline__ void score_rows(const CentroidToppMapArgs& a, const T* qc, const T* kc, int64_t first,
                                           float* scores) {
  TK_SHARED(query, float[kMapDepth][kMapRows]);
  TK_SHARED(key, float[kMapThreads][kMapDepth + 1]);
  // Half a warp fetches a row; the halves stand 16 rows apart, where no two of their words share a bank.
  const int d = threadIdx.x % kMapDepth;
  const int line = threadIdx.x / 32 + threadIdx.x % 32 / kMapDepth * 16;
  const int query_row = threadIdx.x % kMapRows;
  const int query_d = threadIdx.x / kMapRows;
  for (int64_t j0 = 0; j0 < a.keys; j0 += kMapThreads) {
    float sum[kMapRows] = {};
    for (int64_t d0 = 0; d0 < a.width; d0 += kMapDepth) {
      for (int i = 0; i < kMapThreads / 16; ++i) {
        const int j = i / 2 * 32 + i % 2 * 8 + line;
        const bool present = d0 + d < a.width && j0 + j < a.keys;
        key[j][d] = present ? to_float(kc[(j0 + j) * a.k_row_stride + d0 + d]) : 0.0f;
      }
      if (query_d < kMapDepth) {
        const bool present = d0 + query_d < a.width && first + query_row < a.queries;
        query[query_d][query_row] = present ? to_float(qc[(first + query_row) * a.q_row_stride + d0 + query_d]) : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int c = 0; c < kMapDepth; ++c) {
        const float value = key[threadIdx.x][c];
#pragma unroll
        for (int r = 0; r < kMapRows; ++r) sum[r] = fmaf(query[c][r], value, sum[r]);
      }
      __syncthreads();
    }
    const int64_t j = j0 + threadIdx.x;
    for (int r = 0; j < a.keys && r < kMapRows; ++r) scores[r * a.keys + j] = sum[r] * a.scale;
  }
  __syncthreads();
}

// `spill` holds the scores of every block where they do not fit shared memory; null otherwise.
template <class T>
__global__ void __launch_bounds__(kMapThreads)
    centroid_topp_map_kernel(CentroidToppMapArgs a, float* spill, int64_t chunks) {
  TK_DYNAMIC_SHARED(float, shared_scores);
  const int64_t group = blockIdx.x / chunks;
  const int64_t first = blockIdx.x % chunks * kMapRows;
  const int64_t b = group / a.heads;
  const int64_t h = group % a.heads;
  float* scores = spill ? spill + blockIdx.x * kMapRows * a.keys : shared_scores;
  score_rows(a, static_cast<const T*>(a.qc) + b * a.q_batch_stride + h * a.q_head_stride,
             static_cast<const T*>(a.kc) + b * a.k_batch_stride + h * a.k_head_stride, first, scores);
  const int64_t row = first + threadIdx.x / 32;
  if (row >= a.queries) return;
  float* shares = scores + threadIdx.x / 32 * a.keys;
  const bool valid = make_shares(shares, a.size_k + group * a.keys, a.keys);
  const int64_t at = (group * a.queries + row) * a.keys;
  for (int64_t j = threadIdx.x % 32; a.prob && j < a.keys; j += 32) a.prob[at + j] = valid ? shares[j] : NAN;
  const bool whole = !valid || a.limit == kNoLimit;
  write_map(shares, a.keys, whole ? MapCut{0, a.keys} : find_cut(shares, a), a.map + at);
}

}  // namespace tk::cluster::gpu
