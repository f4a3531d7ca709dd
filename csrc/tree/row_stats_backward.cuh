// SPDX-License-Identifier: Apache-2.0
// One block a part of a row.
#pragma once
#include "core/gpu.cuh"
#include "tree/row_stats_backward.h"

namespace tk::tree::gpu {

constexpr int kGradientThreads = 256;
constexpr int64_t kGradientPart = 8 * kGradientThreads;

template <class T>
__global__ void __launch_bounds__(kGradientThreads) row_stats_backward_kernel(RowStatsBackwardArgs a, int64_t parts) {
  const int64_t row = blockIdx.x / parts;
  const int64_t first = blockIdx.x % parts * kGradientPart;
  const int64_t end = first + kGradientPart < a.width ? first + kGradientPart : a.width;
  const T* logits = static_cast<const T*>(a.logits) + row / a.rows * a.batch_stride + row % a.rows * a.row_stride;
  T* out = static_cast<T*>(a.out) + row * a.width;
  for (int64_t j = first + threadIdx.x; j < end; j += blockDim.x) {
    const float log_p = to_float(logits[j]) * a.inverse_temperature - a.lse[row];
    const float p = expf(log_p);
    const float slope = p == 0.0f ? 0.0f : a.slope[row] * log_p;
    out[j] = from_float<T>(p * (a.level[row] - slope) * a.inverse_temperature);
  }
}

}  // namespace tk::tree::gpu
