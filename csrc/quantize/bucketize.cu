// SPDX-License-Identifier: Apache-2.0
#include "quantize/bucketize.cuh"

namespace tk::quantize::gpu {

size_t bucketize_workspace(const BucketizeArgs&) { return 0; }

void bucketize(const BucketizeArgs& a, const GpuContext& context) {
  if (a.count == 0) return;
  constexpr int64_t kItems = kBucketThreads * kBucketItems;
  const dim3 blocks(static_cast<unsigned>((a.count + kItems - 1) / kItems));
  TK_FLOAT_SWITCH(a.dtype, T, launch(bucketize_kernel<T>, blocks, dim3(kBucketThreads), 0, context.stream, a))
}

}  // namespace tk::quantize::gpu
