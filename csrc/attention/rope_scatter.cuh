// SPDX-License-Identifier: Apache-2.0
// One warp sums one row of the answer: it looks at 32 indices at a time and visits those that name the row in order.
#pragma once
#include "attention/rope_gather.cuh"
#include "attention/rope_scatter.h"

namespace tk::attention::gpu {

constexpr int kRopeColumns = 8;  // 32 lanes times this is the widest head

template <class T>
__global__ void __launch_bounds__(kRopeThreads) rope_scatter_kernel(RopeScatterArgs a) {
  const int lane = threadIdx.x % 32;
  const int64_t i = (int64_t{blockIdx.x} * kRopeThreads + threadIdx.x) / 32;
  if (i >= a.batch * a.heads * a.rows) return;
  const RopePlace to = rope_place(i, a.heads, a.rows);
  const int64_t* index = a.index.data + to.b * a.index.batch_stride;
  const T* head = static_cast<const T*>(a.x.data) + to.b * a.x.batch_stride + to.h * a.x.head_stride;
  float sum[kRopeColumns] = {};
  int64_t count = 0;
  for (int64_t first = 0; first < a.picks; first += 32) {
    const bool named = first + lane < a.picks && index[first + lane] == to.n;
    unsigned members = __ballot_sync(kAllLanes, named);
    count += __popc(members);
    for (; members != 0; members &= members - 1) {
      const RopePlace from{to.b, to.h, first + __ffs(static_cast<int>(members)) - 1};
      const T* x = head + from.n * a.x.row_stride;
#pragma unroll
      for (int c = 0; c < kRopeColumns; ++c) {
        const int64_t d = lane + 32 * c;
        if (d < a.width) sum[c] += turned<-1>(a.table, from, x, d, a.width);
      }
    }
  }
  const float divisor = a.mean && count > 0 ? static_cast<float>(count) : 1.0f;
#pragma unroll
  for (int c = 0; c < kRopeColumns; ++c) {
    const int64_t d = lane + 32 * c;
    if (d < a.width) static_cast<T*>(a.out)[i * a.width + d] = from_float<T>(sum[c] / divisor);
  }
}

}  // namespace tk::attention::gpu
