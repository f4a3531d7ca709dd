// SPDX-License-Identifier: Apache-2.0
#include "attention/rope_gather.cuh"

namespace tk::attention::gpu {

size_t rope_gather_workspace(const RopeGatherArgs&) { return 0; }

void rope_gather(const RopeGatherArgs& a, const GpuContext& context) {
  const int64_t rows = a.batch * a.heads * a.picks;
  if (rows == 0) return;
  constexpr int64_t warps = kRopeThreads / 32;
  const dim3 grid(static_cast<unsigned>((rows + warps - 1) / warps));
  TK_FLOAT_SWITCH(a.dtype, T, launch(rope_gather_kernel<T>, grid, dim3(kRopeThreads), 0, context.stream, a))
}

}  // namespace tk::attention::gpu
