// SPDX-License-Identifier: Apache-2.0
#include "quantize/rvq_encode.cuh"

namespace tk::quantize::gpu {

size_t rvq_encode_workspace(const RvqEncodeArgs& a) {
  return static_cast<size_t>(a.groups * a.rows * a.width) * sizeof(float);
}

void rvq_encode(const RvqEncodeArgs& a, const GpuContext& context) {
  const int64_t rows = a.groups * a.rows;
  if (rows == 0) return;
  const dim3 blocks(static_cast<unsigned>((rows * 32 + kEncodeThreads - 1) / kEncodeThreads));
  TK_FLOAT_SWITCH(a.dtype, T,
                  launch(rvq_encode_kernel<T>, blocks, dim3(kEncodeThreads), 0, context.stream, a,
                         static_cast<float*>(context.workspace)))
}

}  // namespace tk::quantize::gpu
