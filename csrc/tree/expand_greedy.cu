// SPDX-License-Identifier: Apache-2.0
#include "tree/expand_greedy.cuh"

namespace tk::tree::gpu {

size_t expand_greedy_workspace(const ExpandGreedyArgs&) { return 0; }

void expand_greedy(const ExpandGreedyArgs& a, const GpuContext& context) {
  if (a.batch == 0) return;
  const dim3 grid(static_cast<unsigned>(a.batch));
  if (a.budget < 0) return launch(expand_greedy_kernel<false>, grid, dim3(32), 0, context.stream, a);
  const size_t shared = static_cast<size_t>(a.budget + 1) * sizeof(NodeState);
  launch(expand_greedy_kernel<true>, grid, dim3(32), shared, context.stream, a);
}

}  // namespace tk::tree::gpu
