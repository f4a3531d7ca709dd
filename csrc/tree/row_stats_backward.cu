// SPDX-License-Identifier: Apache-2.0
#include "tree/row_stats_backward.cuh"

namespace tk::tree::gpu {
namespace {

template <class T>
void launch_backward(const RowStatsBackwardArgs& a, const GpuContext& context) {
  const int64_t parts = (a.width + kGradientPart - 1) / kGradientPart;
  launch(row_stats_backward_kernel<T>, dim3(static_cast<unsigned>(a.batch * a.rows * parts)), dim3(kGradientThreads), 0,
         context.stream, a, parts);
}

}  // namespace

size_t row_stats_backward_workspace(const RowStatsBackwardArgs&) { return 0; }

void row_stats_backward(const RowStatsBackwardArgs& a, const GpuContext& context) {
  if (a.batch * a.rows * a.width == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_backward<T>(a, context))
}

}  // namespace tk::tree::gpu
