// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_map_ce.cuh"

namespace tk::attention::gpu {

size_t attention_map_ce_workspace(const AttentionMapCeArgs&) { return 0; }

void attention_map_ce(const AttentionMapCeArgs& a, const GpuContext& context) {
  const int64_t blocks = a.batch * a.heads * ((a.queries + kMapTile - 1) / kMapTile);
  if (blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(blocks));
  TK_FLOAT_SWITCH(a.dtype, T, launch(attention_map_ce_kernel<T>, grid, dim3(kMapThreads), 0, context.stream, a))
}

}  // namespace tk::attention::gpu
