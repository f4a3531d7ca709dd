// SPDX-License-Identifier: Apache-2.0
#include "quantize/fsq_encode_backward.cuh"

namespace tk::quantize::gpu {

size_t fsq_encode_backward_workspace(const FsqEncodeBackwardArgs&) { return 0; }

void fsq_encode_backward(const FsqEncodeBackwardArgs& a, const GpuContext& context) {
  if (a.rows == 0) return;
  const int64_t count = a.rows * a.grid.axes;
  const dim3 blocks(static_cast<unsigned>((count + kGridGradThreads - 1) / kGridGradThreads));
  TK_FLOAT_SWITCH(a.dtype, T,
                  launch(fsq_encode_backward_kernel<T>, blocks, dim3(kGridGradThreads), 0, context.stream, a))
}

}  // namespace tk::quantize::gpu
