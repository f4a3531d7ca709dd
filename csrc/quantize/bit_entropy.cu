// SPDX-License-Identifier: Apache-2.0
#include "quantize/bit_entropy.cuh"

namespace tk::quantize::gpu {

size_t bit_entropy_workspace(const BitEntropyArgs&) { return 0; }

void bit_entropy(const BitEntropyArgs& a, const GpuContext& context) {
  if (a.rows == 0) return;
  const dim3 grid(static_cast<unsigned>((a.rows + kBitWarps - 1) / kBitWarps));
  TK_FLOAT_SWITCH(a.dtype, T, launch(bit_entropy_kernel<T>, grid, dim3(kBitThreads), 0, context.stream, a))
}

}  // namespace tk::quantize::gpu
