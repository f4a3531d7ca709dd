// SPDX-License-Identifier: Apache-2.0
#include "select/topk_gate_backward.cuh"

namespace tk::selection::gpu {

size_t topk_gate_backward_workspace(const TopkGateBackwardArgs&) { return 0; }

void topk_gate_backward(const TopkGateBackwardArgs& a, const GpuContext& context) {
  if (a.logits.width == 0 || a.logits.rows == 0) return;
  constexpr int64_t kRows = kTopkBackwardThreads / 32;
  const auto blocks = static_cast<unsigned>((a.logits.rows + kRows - 1) / kRows);
  TK_FLOAT_SWITCH(a.logits.dtype, T,
                  launch(topk_gate_backward_kernel<T>, dim3(blocks), dim3(kTopkBackwardThreads), 0, context.stream, a))
}

}  // namespace tk::selection::gpu
