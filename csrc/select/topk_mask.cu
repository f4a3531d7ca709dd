// SPDX-License-Identifier: Apache-2.0
#include "select/topk_mask.cuh"

namespace tk::selection::gpu {
namespace {

template <class T>
void launch_topk_mask(const TopkMaskArgs& a, const GpuContext& context) {
  const int64_t threads = a.from.width >= kThreads ? kThreads : a.from.width > 128 ? 256 : 64;
  launch(topk_mask_kernel<T>, dim3(static_cast<unsigned>(a.from.rows)), dim3(static_cast<unsigned>(threads)), 0,
         context.stream, a);
}

}  // namespace

size_t topk_mask_workspace(const TopkMaskArgs&) { return 0; }

void topk_mask(const TopkMaskArgs& a, const GpuContext& context) {
  if (a.from.width == 0 || a.from.rows == 0) return;
  TK_FLOAT_SWITCH(a.from.dtype, T, launch_topk_mask<T>(a, context))
}

}  // namespace tk::selection::gpu
