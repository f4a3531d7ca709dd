// SPDX-License-Identifier: Apache-2.0
#include "select/threshold_gate.cuh"

namespace tk::selection::gpu {

size_t threshold_gate_workspace(const ThresholdGateArgs&) { return 0; }

void threshold_gate(const ThresholdGateArgs& a, const GpuContext& context) {
  if (a.count == 0) return;
  const auto blocks = static_cast<unsigned>((a.count + kGateThreads - 1) / kGateThreads);
  TK_FLOAT_SWITCH(a.dtype, T, launch(threshold_gate_kernel<T>, dim3(blocks), dim3(kGateThreads), 0, context.stream, a))
}

}  // namespace tk::selection::gpu
