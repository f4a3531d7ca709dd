// SPDX-License-Identifier: Apache-2.0
#include "select/threshold_gate_backward.cuh"

namespace tk::selection::gpu {

size_t threshold_gate_backward_workspace(const ThresholdGateBackwardArgs&) { return 0; }

void threshold_gate_backward(const ThresholdGateBackwardArgs& a, const GpuContext& context) {
  if (a.count == 0) return;
  const auto blocks = static_cast<unsigned>((a.count + kGateBackwardThreads - 1) / kGateBackwardThreads);
  TK_FLOAT_SWITCH(
      a.dtype, T,
      launch(threshold_gate_backward_kernel<T>, dim3(blocks), dim3(kGateBackwardThreads), 0, context.stream, a))
}

}  // namespace tk::selection::gpu
