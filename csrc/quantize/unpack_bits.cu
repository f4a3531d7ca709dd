// SPDX-License-Identifier: Apache-2.0
#include "quantize/unpack_bits.cuh"

namespace tk::quantize::gpu {

size_t unpack_bits_workspace(const UnpackBitsArgs&) { return 0; }

void unpack_bits(const UnpackBitsArgs& a, const GpuContext& context) {
  const int64_t total = a.rows * a.width;
  if (total == 0) return;
  const dim3 blocks(static_cast<unsigned>((total + kUnpackBitsThreads - 1) / kUnpackBitsThreads));
  launch(unpack_bits_kernel<kUnpackBitsThreads>, blocks, dim3(kUnpackBitsThreads), 0, context.stream, a);
}

}  // namespace tk::quantize::gpu
