// SPDX-License-Identifier: Apache-2.0
#include "quantize/nearest_rank.cuh"

namespace tk::quantize::gpu {

size_t nearest_rank_workspace(const NearestRankArgs&) { return 0; }

void nearest_rank(const NearestRankArgs& a, const GpuContext& context) {
  if (a.search.books * a.search.rows == 0) return;
  TK_FLOAT_SWITCH(a.search.dtype, T,
                  launch(nearest_rank_kernel<T>, walk_blocks(a.search), dim3(kWalkThreads), 0, context.stream, a))
}

}  // namespace tk::quantize::gpu
