// SPDX-License-Identifier: Apache-2.0
#include "quantize/bit_entropy_backward.cuh"

namespace tk::quantize::gpu {

size_t bit_entropy_backward_workspace(const BitEntropyBackwardArgs&) { return 0; }

void bit_entropy_backward(const BitEntropyBackwardArgs& a, const GpuContext& context) {
  const int64_t count = a.rows * a.width;
  if (count == 0) return;
  const dim3 grid(static_cast<unsigned>((count + kBitGradientThreads - 1) / kBitGradientThreads));
  TK_FLOAT_SWITCH(a.dtype, T,
                  launch(bit_entropy_backward_kernel<T>, grid, dim3(kBitGradientThreads), 0, context.stream, a))
}

}  // namespace tk::quantize::gpu
