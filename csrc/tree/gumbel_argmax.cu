// SPDX-License-Identifier: Apache-2.0
#include "tree/gumbel_argmax.cuh"

namespace tk::tree::gpu {
namespace {

template <class T>
void launch_gumbel_argmax(const GumbelArgmaxArgs& a, const GpuContext& context) {
  const int threads = a.width >= 4 * kGumbelThreads ? kGumbelThreads : a.width > 256 ? 128 : 32;
  launch(gumbel_argmax_kernel<T>, dim3(static_cast<unsigned>(a.rows)), dim3(static_cast<unsigned>(threads)), 0,
         context.stream, a);
}

}  // namespace

size_t gumbel_argmax_workspace(const GumbelArgmaxArgs&) { return 0; }

void gumbel_argmax(const GumbelArgmaxArgs& a, const GpuContext& context) {
  if (a.rows == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_gumbel_argmax<T>(a, context))
}

}  // namespace tk::tree::gpu
