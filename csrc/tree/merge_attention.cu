// SPDX-License-Identifier: Apache-2.0
#include "tree/merge_attention.cuh"

namespace tk::tree::gpu {

size_t merge_attention_workspace(const MergeAttentionArgs&) { return 0; }

void merge_attention(const MergeAttentionArgs& a, const GpuContext& context) {
  if (a.shape.batch * a.shape.heads * a.shape.rows == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_merge<T, T>(a, context.stream))
}

}  // namespace tk::tree::gpu
