// SPDX-License-Identifier: Apache-2.0
#include "select/local_value_attention.cuh"

namespace tk::selection::gpu {

size_t local_value_attention_workspace(const LocalValueAttentionArgs& a) {
  return static_cast<size_t>(a.batch * a.heads * a.queries * a.keep) * sizeof(uint32_t);
}

void local_value_attention(const LocalValueAttentionArgs& a, const GpuContext& context) {
  const int64_t rows = a.batch * a.heads * a.queries;
  if (rows == 0 || a.width == 0) return;
  const int threads = a.keys > 128 ? kSumThreads : 64;
  TK_FLOAT_SWITCH(a.dtype, T,
                  launch(local_value_kernel<T>, dim3(static_cast<unsigned>(rows)), dim3(static_cast<unsigned>(threads)),
                         0, context.stream, a, static_cast<uint32_t*>(context.workspace)))
}

}  // namespace tk::selection::gpu
