// SPDX-License-Identifier: Apache-2.0
#include "tree/row_stats.cuh"

namespace tk::tree::gpu {
namespace {

template <class T>
void launch_row_stats(const RowStatsArgs& a, const GpuContext& context) {
  const int threads = a.width >= 4 * kRowThreads ? kRowThreads : a.width > 256 ? 128 : 32;
  launch(row_stats_kernel<T>, dim3(static_cast<unsigned>(a.batch * a.rows)), dim3(static_cast<unsigned>(threads)), 0,
         context.stream, a);
}

}  // namespace

size_t row_stats_workspace(const RowStatsArgs&) { return 0; }

void row_stats(const RowStatsArgs& a, const GpuContext& context) {
  if (a.batch * a.rows == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_row_stats<T>(a, context))
}

}  // namespace tk::tree::gpu
