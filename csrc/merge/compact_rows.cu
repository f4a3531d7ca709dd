// SPDX-License-Identifier: Apache-2.0
#include "merge/compact_rows.cuh"

namespace tk::merge::gpu {

size_t count_rows_workspace(const CountRowsArgs&) { return 0; }

void count_rows(const CountRowsArgs& a, const GpuContext& context) {
  if (a.batch) {
    launch(count_rows_kernel<kCompactThreads>, dim3(static_cast<unsigned>(a.batch)), dim3(kCompactThreads), 0,
           context.stream, a);
  }
  launch(sum_counts_kernel<32>, dim3(1), dim3(32), 0, context.stream, a);
}

size_t compact_rows_workspace(const CompactRowsArgs&) { return 0; }

void compact_rows(const CompactRowsArgs& a, const GpuContext& context) {
  if (a.batch * a.tokens == 0) return;
  launch(compact_rows_kernel<kCompactThreads>, dim3(static_cast<unsigned>(a.batch)), dim3(kCompactThreads), 0,
         context.stream, a);
}

}  // namespace tk::merge::gpu
