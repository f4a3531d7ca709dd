// SPDX-License-Identifier: Apache-2.0
#include "quantize/pack_bits.cuh"

namespace tk::quantize::gpu {

size_t pack_bits_workspace(const PackBitsArgs&) { return 0; }

void pack_bits(const PackBitsArgs& a, const GpuContext& context) {
  const int64_t total = a.rows * packed_bytes(a.width, a.bits);
  if (total == 0) return;
  const dim3 blocks(static_cast<unsigned>((total + kPackThreads - 1) / kPackThreads));
  launch(pack_bits_kernel<kPackThreads>, blocks, dim3(kPackThreads), 0, context.stream, a);
}

}  // namespace tk::quantize::gpu
