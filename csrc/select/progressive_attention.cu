// SPDX-License-Identifier: Apache-2.0
#include "select/progressive_attention.cuh"

namespace tk::selection::gpu {
namespace {

template <class T>
void launch_progressive(const ProgressiveAttentionArgs& a, const GpuContext& context) {
  const dim3 grid(static_cast<unsigned>(a.batch * a.heads * a.queries));
  auto* products = static_cast<float*>(context.workspace);
  const auto kernel =
      a.value_dtype == DType::i8 ? progressive_attention_kernel<T, int8_t> : progressive_attention_kernel<T, T>;
  launch(kernel, grid, dim3(kSumThreads), 0, context.stream, a, products);
}

}  // namespace

size_t progressive_attention_workspace(const ProgressiveAttentionArgs& a) {
  return static_cast<size_t>(a.batch * a.heads * a.queries * a.keys) * sizeof(float);
}

void progressive_attention(const ProgressiveAttentionArgs& a, const GpuContext& context) {
  if (a.batch * a.heads * a.queries == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_progressive<T>(a, context))
}

}  // namespace tk::selection::gpu
