// SPDX-License-Identifier: Apache-2.0
#include "tree/tree_attention.cuh"

namespace tk::tree::gpu {
namespace {

constexpr int kThreads = 64;

template <class T>
void launch_rows(const TreeAttentionArgs& a, const GpuContext& context) {
  const int64_t rows = a.batch * a.heads * a.nodes;
  launch(tree_attention_kernel<T>, dim3(static_cast<unsigned>((rows + kThreads - 1) / kThreads)), dim3(kThreads), 0,
         context.stream, a);
}

}  // namespace

size_t tree_attention_workspace(const TreeAttentionArgs&) { return 0; }

void tree_attention(const TreeAttentionArgs& a, const GpuContext& context) {
  if (a.batch * a.heads * a.nodes == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_rows<T>(a, context))
}

}  // namespace tk::tree::gpu
