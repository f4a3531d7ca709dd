// SPDX-License-Identifier: Apache-2.0
#include "tree/update_adjacency.cuh"

namespace tk::tree::gpu {

size_t update_adjacency_workspace(const UpdateAdjacencyArgs&) { return 0; }

void update_adjacency(const UpdateAdjacencyArgs& a, const GpuContext& context) {
  if (a.nodes * a.count == 0) return;
  const auto blocks = static_cast<unsigned>((a.nodes * 32 + kUpdateThreads - 1) / kUpdateThreads);
  launch(update_adjacency_kernel<void>, dim3(blocks), dim3(kUpdateThreads), 0, context.stream, a);
}

}  // namespace tk::tree::gpu
