// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "quantize/nearest_topk.h"
#include "quantize/next_code.cuh"

namespace tk::quantize::gpu {

template <class T>
__global__ void __launch_bounds__(kWalkThreads) nearest_topk_kernel(NearestTopkArgs a) {
  const int64_t item = int64_t{blockIdx.x} * kWalkThreads + threadIdx.x;
  if (item >= a.search.books * a.search.rows) return;
  const RowWalk<T> walk = row_walk<T>(a.search, item);
  NextCode code;
  for (int64_t i = 0; i < a.k; ++i) {
    if (i == 0 || code.index >= 0) code = walk.after(code);
    a.index[item * a.k + i] = code.index;
    a.best[item * a.k + i] = walk.reported(code);
  }
}

}  // namespace tk::quantize::gpu
