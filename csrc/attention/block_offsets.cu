// SPDX-License-Identifier: Apache-2.0
#include "attention/block_offsets.cuh"

namespace tk::attention::gpu {

size_t block_offsets_workspace(const BlockOffsetsArgs&) { return 0; }

void block_offsets(const BlockOffsetsArgs& a, const GpuContext& context) {
  if (a.rows == 0) return;
  constexpr int64_t warps = kOffsetThreads / 32;
  launch(block_offsets_kernel<kOffsetThreads>, dim3(static_cast<unsigned>((a.rows + warps - 1) / warps)),
         dim3(kOffsetThreads), 0, context.stream, a.sizes, a.offsets, a.rows, a.blocks, a.total);
}

}  // namespace tk::attention::gpu
