// SPDX-License-Identifier: Apache-2.0
#include "select/split_bits.cuh"

namespace tk::selection::gpu {

size_t split_bits_workspace(const SplitBitsArgs&) { return 0; }

void split_bits(const SplitBitsArgs& a, const GpuContext& context) {
  const int64_t rows = a.batch * a.heads * a.rows;
  if (rows == 0) return;
  const dim3 grid(static_cast<unsigned>((rows * 32 + kSplitThreads - 1) / kSplitThreads));
  TK_FLOAT_SWITCH(a.dtype, T, launch(split_bits_kernel<T>, grid, dim3(kSplitThreads), 0, context.stream, a, rows))
}

}  // namespace tk::selection::gpu
