// SPDX-License-Identifier: Apache-2.0
// The rows of a cluster are summed as those of a segment (merge/segment_reduce.cuh): sorted by label, one warp a
// cluster and 32 P channels, clusters of many rows in blocks first. Then one warp turns each sum into a centroid, and
// one block a sample finds the largest step.
#pragma once
#include "cluster/update.h"
#include "core/nearness.cuh"
#include "merge/segment_reduce.cuh"

namespace tk::cluster::gpu {

using merge::kSegmentBlock;
using merge::gpu::kReduceWarps;
using merge::gpu::ReduceRows;

constexpr int kUpdateThreads = 256;
constexpr int kUpdateWarps = kUpdateThreads / 32;

// 1 / |x| of every row: one warp a row.
template <class T>
__global__ void __launch_bounds__(kUpdateThreads) row_weights_kernel(UpdateArgs a, float* weight) {
  const int64_t i = (int64_t{blockIdx.x} * kUpdateThreads + threadIdx.x) / 32;
  if (i >= a.batch * a.rows) return;
  const T* x = static_cast<const T*>(a.x) + i / a.rows * a.x_batch_stride + i % a.rows * a.x_row_stride;
  const float squares = warp_squares(x, a.width, threadIdx.x % 32);
  if (threadIdx.x % 32 == 0) weight[i] = inverse_root(squares);
}

template <class T, int P>
__global__ void __launch_bounds__(kReduceWarps * 32) cluster_sums_kernel(UpdateArgs u, ReduceRows<T> a, float* sums) {
  const int lane = threadIdx.x % 32;
  const int64_t tiles = a.width ? (a.width + 32 * P - 1) / (32 * P) : 1;
  const int64_t warp = (int64_t{blockIdx.x} * (kReduceWarps * 32) + threadIdx.x) / 32;
  const int64_t row = warp / tiles;
  if (row >= a.batch * a.segments) return;
  const int64_t b = row / a.segments;
  const int64_t* offsets = a.members.offsets_of(b) + row % a.segments;
  const int64_t begin = offsets[0];
  const int64_t end = offsets[1];
  if (lane == 0 && warp % tiles == 0) u.counts[row] = end - begin;
  const int64_t c = warp % tiles * (32 * P) + lane * P;
  if (c >= a.width) return;
  float sum[P] = {};
  if (end - begin <= kSegmentBlock) {
    merge::gpu::reduce_members<false, T, P>(a, b, begin, end, c, sum);
  } else {
    merge::gpu::add_slots<false, T, P>(a, b, begin, end, c, sum);
  }
#pragma unroll
  for (int p = 0; p < P; ++p) sums[row * a.width + c + p] = sum[p];
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// moved[b, k] = |c' - c|^2.
template <class T>
__global__ void __launch_bounds__(kUpdateThreads) cluster_means_kernel(UpdateArgs a, const float* sums, float* moved) {
  const int lane = threadIdx.x % 32;
  const int64_t i = (int64_t{blockIdx.x} * kUpdateThreads + threadIdx.x) / 32;
  if (i >= a.batch * a.clusters) return;
  const float* sum = sums + i * a.width;
  const T* old = static_cast<const T*>(a.old) + i / a.clusters * a.old_batch_stride + i % a.clusters * a.old_row_stride;
  T* out = static_cast<T*>(a.centroids) + i * a.width;
  float divisor = static_cast<float>(a.counts[i]);
  if (divisor != 0 && a.metric == Metric::cosine) divisor = sqrtf(warp_squares(sum, a.width, lane));
  float squares = 0;
  for (int64_t d = lane; d < a.width; d += 32) {
    const T value = divisor == 0 ? old[d] : from_float<T>(sum[d] / divisor);
    const float step = divisor == 0 ? 0.0f : to_float(value) - to_float(old[d]);
    out[d] = value;
    squares = fmaf(step, step, squares);
  }
  squares = warp_sum(squares);
  if (lane == 0) moved[i] = squares;
}

// The larger; a NaN stays.
TK_INLINE float larger(float x, float y) { return x >= y || x != x ? x : y; }

template <int kThreads>
__global__ void __launch_bounds__(kThreads) cluster_shift_kernel(UpdateArgs a, const float* moved) {
  TK_SHARED(most_of_warp, float[kThreads / 32]);
  const int64_t b = blockIdx.x;
  float most = 0;
  for (int64_t k = threadIdx.x; k < a.clusters; k += kThreads) most = larger(most, moved[b * a.clusters + k]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = larger(most, __shfl_xor_sync(kAllLanes, most, step));
  if (threadIdx.x % 32 == 0) most_of_warp[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kThreads / 32; ++w) most = larger(most, most_of_warp[w]);
  a.shift[b] = sqrtf(most);
}

}  // namespace tk::cluster::gpu
