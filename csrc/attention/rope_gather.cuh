// SPDX-License-Identifier: Apache-2.0
// One warp writes one row.
#pragma once
#include "attention/rope_gather.h"
#include "core/gpu.cuh"

namespace tk::attention::gpu {

constexpr int kRopeThreads = 256;

// Row i of an array (B, H, rows, D): its sample, head and place.
struct RopePlace {
  int64_t b, h, n;
};

__device__ __forceinline__ RopePlace rope_place(int64_t i, int64_t heads, int64_t rows) {
  return {i / rows / heads, i / rows % heads, i % rows};
}

// Element d of R x (Way 1) or R^T x (Way -1), D elements wide.
template <int Way, class T>
__device__ __forceinline__ float turned(const RopeTable& t, const RopePlace& p, const T* x, int64_t d, int64_t width) {
  const int64_t half = width / 2;
  if (t.cos == nullptr) return to_float(x[d]);
  const bool low = d < half;
  const int64_t other = low ? d + half : d - half;
  const float* cos = t.cos + p.b * t.cos_batch_stride + p.n * t.cos_row_stride;
  const float* sin = t.sin + p.b * t.sin_batch_stride + p.n * t.sin_row_stride;
  const float angle = Way > 0 ? sin[d] : sin[other];
  const float across = (low == (Way > 0)) ? -angle : angle;
  return to_float(x[d]) * cos[d] + to_float(x[other]) * across;
}

template <class T>
__global__ void __launch_bounds__(kRopeThreads) rope_gather_kernel(RopeGatherArgs a) {
  const int lane = threadIdx.x % 32;
  const int64_t i = (int64_t{blockIdx.x} * kRopeThreads + threadIdx.x) / 32;
  if (i >= a.batch * a.heads * a.picks) return;
  const RopePlace p = rope_place(i, a.heads, a.picks);
  const int64_t from = a.index.data[p.b * a.index.batch_stride + p.n];
  const bool valid = from >= 0 && from < a.rows;
  const T* x = static_cast<const T*>(a.x.data) + p.b * a.x.batch_stride + p.h * a.x.head_stride + from * a.x.row_stride;
  T* out = static_cast<T*>(a.out) + i * a.width;
  for (int64_t d = lane; d < a.width; d += 32) {
    out[d] = valid ? from_float<T>(turned<1>(a.table, p, x, d, a.width)) : T{};
  }
}

}  // namespace tk::attention::gpu
