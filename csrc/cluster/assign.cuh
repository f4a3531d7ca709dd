// SPDX-License-Identifier: Apache-2.0
// The nearest centroid of every row by core/best_column.cuh. Squared distances fall as x.c - |c|^2 / 2 rises; |x| comes
// last.
#pragma once
#include "cluster/assign.h"
#include "core/best_column.cuh"

namespace tk::cluster::gpu {

// Where the device keeps what lies between its kernels.
struct AssignScratch {
  float* row;     // (B, N): l2 |x|^2, cosine 1 / |x|; NaN where the row is not finite
  float* column;  // (B, K): l2 -|c|^2 / 2, cosine 1 / |c|; NaN where the centroid is not finite
  float* score;   // (splits, B, N): best of one range of centroids
  int* index;     // (splits, B, N)
};

// ---- norms: one warp a row ------------------------------------------------------------------------------------------
TK_INLINE float finite_or_nan(float x) { return fabsf(x) < kInfinity ? x : not_a_number(); }

template <class T>
__global__ void __launch_bounds__(kNormThreads) assign_norms_kernel(AssignArgs a, AssignScratch s) {
  const int lane = threadIdx.x % 32;
  const int64_t item = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  const int64_t rows = a.batch * a.rows;
  const int64_t columns = a.batch * a.clusters;
  if (item < rows) {
    const T* x = static_cast<const T*>(a.x) + item / a.rows * a.x_batch_stride + item % a.rows * a.x_row_stride;
    const float squares = warp_squares(x, a.width, lane);
    if (lane == 0) s.row[item] = a.metric == Metric::cosine ? inverse_root(squares) : finite_or_nan(squares);
  } else if (item < rows + columns) {
    const int64_t k = item - rows;
    const T* c =
        static_cast<const T*>(a.centroids) + k / a.clusters * a.c_batch_stride + k % a.clusters * a.c_row_stride;
    const float squares = warp_squares(c, a.width, lane);
    if (lane == 0) s.column[k] = a.metric == Metric::cosine ? inverse_root(squares) : finite_or_nan(squares) * -0.5f;
  }
}

// ---- scores and answers ---------------------------------------------------------------------------------------------
struct NearnessScore {
  const float* of;  // of each centroid of one sample
  Metric metric;
  TK_HOST_DEVICE float operator()(float product, float value) const {
    return metric == Metric::cosine ? product * value : product + value;
  }
};

__device__ __forceinline__ void write_label(const AssignArgs& a, int64_t row, BestColumn best, float value) {
  const bool valid = best.score > -kInfinity && value == value;
  const float distance = fmaxf(value - 2.0f * best.score, 0.0f);
  a.labels[row] = valid ? best.index : 0;
  a.best[row] = !valid ? not_a_number() : a.metric == Metric::cosine ? best.score * value : distance;
}

struct FinishAssign {
  const AssignArgs& a;
  const AssignScratch& s;
  const SearchTask& task;
  int64_t splits;

  __device__ __forceinline__ void operator()(int64_t in_tile, BestColumn best) const {
    if (task.first_row + in_tile >= a.rows) return;
    const int64_t row = task.b * a.rows + task.first_row + in_tile;
    if (splits == 1) return write_label(a, row, best, s.row[row]);
    s.score[task.split * a.batch * a.rows + row] = best.score;
    s.index[task.split * a.batch * a.rows + row] = best.index;
  }
};

// Combines the ranges of centroids, in ascending order.
template <class Unused>
__global__ void __launch_bounds__(kNormThreads) assign_splits_kernel(AssignArgs a, AssignScratch s, int64_t splits) {
  const int64_t row = int64_t{blockIdx.x} * kNormThreads + threadIdx.x;
  const int64_t rows = a.batch * a.rows;
  if (row >= rows) return;
  BestColumn best;
  for (int64_t k = 0; k < splits; ++k) best.offer(s.score[k * rows + row], s.index[k * rows + row]);
  write_label(a, row, best, s.row[row]);
}

template <bool kAligned>
__global__ void __launch_bounds__(kSearchThreads)
    assign_float32_kernel(AssignArgs a, DeviceSearch search, AssignScratch s) {
  TK_SHARED(rows, float[kStages32 * kSearchRows * kPitch32]);
  TK_SHARED(columns, float[kStages32 * kSearchColumns * kPitch32]);
  const SearchTask task = search_task(search);
  const NearnessScore score{s.column + task.b * a.clusters, a.metric};
  search_tile32<kAligned>(search, task, score, rows, columns, FinishAssign{a, s, task, search.splits});
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kSearchThreads)
    assign_mma_kernel(AssignArgs a, DeviceSearch search, AssignScratch s) {
  TK_SHARED(rows, T[kStages16 * kSearchRows * kPitch16]);
  TK_SHARED(columns, T[kStages16 * kSearchColumns * kPitch16]);
  const SearchTask task = search_task(search);
  const NearnessScore score{s.column + task.b * a.clusters, a.metric};
  search_tile16<T, kAligned>(search, task, score, rows, columns, FinishAssign{a, s, task, search.splits});
}

}  // namespace tk::cluster::gpu
