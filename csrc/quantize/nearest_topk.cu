// SPDX-License-Identifier: Apache-2.0
#include "quantize/nearest_topk.cuh"

namespace tk::quantize::gpu {

size_t nearest_topk_workspace(const NearestTopkArgs&) { return 0; }

void nearest_topk(const NearestTopkArgs& a, const GpuContext& context) {
  if (a.search.books * a.search.rows == 0) return;
  TK_FLOAT_SWITCH(a.search.dtype, T,
                  launch(nearest_topk_kernel<T>, walk_blocks(a.search), dim3(kWalkThreads), 0, context.stream, a))
}

}  // namespace tk::quantize::gpu
