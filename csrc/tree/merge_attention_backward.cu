// SPDX-License-Identifier: Apache-2.0
#include "tree/merge_attention_backward.cuh"

namespace tk::tree::gpu {

size_t merge_attention_backward_workspace(const MergeAttentionBackwardArgs&) { return 0; }

void merge_attention_backward(const MergeAttentionBackwardArgs& a, const GpuContext& context) {
  const int64_t rows = a.shape.batch * a.shape.heads * a.shape.rows;
  if (rows == 0 || a.shape.parts == 0) return;
  const auto blocks = static_cast<unsigned>((rows + kMergeRows - 1) / kMergeRows);
  TK_FLOAT_SWITCH(a.dtype, T,
                  launch(merge_attention_backward_kernel<T>, dim3(blocks), dim3(kMergeThreads), 0, context.stream, a))
}

}  // namespace tk::tree::gpu
