// SPDX-License-Identifier: Apache-2.0
#include "select/join_bits.cuh"

namespace tk::selection::gpu {

size_t join_bits_workspace(const JoinBitsArgs&) { return 0; }

void join_bits(const JoinBitsArgs& a, const GpuContext& context) {
  const int64_t items = a.batch * a.heads * a.rows * a.width;
  if (items == 0) return;
  const dim3 grid(static_cast<unsigned>((items + kJoinThreads - 1) / kJoinThreads));
  launch(join_bits_kernel, grid, dim3(kJoinThreads), 0, context.stream, a, items);
}

}  // namespace tk::selection::gpu
