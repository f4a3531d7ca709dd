// SPDX-License-Identifier: Apache-2.0
// One block a row.
#pragma once
#include "core/gpu.cuh"
#include "tree/mass_rows.cuh"
#include "tree/residual_sample.h"

namespace tk::tree::gpu {

template <class T>
__global__ void __launch_bounds__(kMassThreads) residual_sample_kernel(ResidualSampleArgs a, float* memory) {
  const int64_t n = blockIdx.x;
  float* own = memory + n * 3 * a.width;
  BlockRow p{own, 0, 0.0f};
  BlockRow q{own + a.width, 0, 0.0f};
  BlockRow left{own + 2 * a.width, 0, 0.0f};
  int64_t index = kNoTarget;
  if (read_row(static_cast<const T*>(a.p) + n * a.p_row_stride, a.width, a.slack, &p)) {
    index = kNoDraft;
    if (read_row(static_cast<const T*>(a.q) + n * a.q_row_stride, a.width, a.slack, &q)) {
      if (subtract_row(p, q, a.width, &left)) p = left;
      index = draw_item(p, a.width, a.u[n]);
    }
  }
  if (threadIdx.x == 0) a.index[n] = index;
}

}  // namespace tk::tree::gpu
