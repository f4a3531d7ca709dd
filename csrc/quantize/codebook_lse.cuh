// SPDX-License-Identifier: Apache-2.0
// Parts of all codes say what they know of a tile of rows; one thread a row joins them.
#pragma once
#include "quantize/codebook_lse.h"
#include "quantize/soft_rows.cuh"

namespace tk::quantize::gpu {

__global__ void __launch_bounds__(kSoftThreads)
    codebook_lse_join_kernel(CodebookLseArgs a, SoftPair p, const SoftStats* parts, int64_t parts_count) {
  const int64_t row = int64_t{blockIdx.x} * kSoftThreads + threadIdx.x;
  if (row >= a.books * a.rows) return;
  const SoftStats all = joined_parts(parts, parts_count, a.rows, row, p.base);
  const float score = all.top + p.rows.bias[row];
  const float lse = score * a.inv_temperature + logf(all.sum);
  const bool spoiled = lse != lse;
  a.lse[row] = lse;
  a.best[row] = spoiled ? lse : a.metric == Metric::l2 && score > 0.0f ? 0.0f : score;
  a.index[row] = spoiled ? 0 : all.index;
}

}  // namespace tk::quantize::gpu
