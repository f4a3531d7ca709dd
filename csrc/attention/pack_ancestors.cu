// SPDX-License-Identifier: Apache-2.0
#include "attention/pack_ancestors.cuh"

namespace tk::attention::gpu {

size_t pack_ancestors_workspace(const PackAncestorsArgs&) { return 0; }

void pack_ancestors(const PackAncestorsArgs& a, const GpuContext& context) {
  const int64_t words = a.rows * ((a.nodes + 63) / 64);
  if (words == 0) return;
  launch(pack_ancestors_kernel<kPackThreads>, dim3(static_cast<unsigned>((words + kPackThreads - 1) / kPackThreads)),
         dim3(kPackThreads), 0, context.stream, a.seen, a.words, a.rows, a.nodes, a.row_stride);
}

}  // namespace tk::attention::gpu
