// SPDX-License-Identifier: Apache-2.0
#include "attention/fold_columns.cuh"

namespace tk::attention::gpu {

size_t fold_columns_workspace(const FoldColumnsArgs&) { return 0; }

void fold_columns(const FoldColumnsArgs& a, const GpuContext& context) {
  const int64_t rows = a.batch * (a.over_heads ? 1 : a.heads);
  const int64_t answers = rows * width_of(a);
  if (answers == 0) return;
  const int64_t heads = a.over_heads ? a.heads : 1;  // that one row of answers adds up
  const int64_t threads = by_groups(a) ? answers * 32 : answers;
  const dim3 grid(static_cast<unsigned>((threads + kFoldThreads - 1) / kFoldThreads));
  if (by_groups(a)) {
    launch(fold_groups_kernel, grid, dim3(kFoldThreads), 0, context.stream, a, heads, answers);
  } else {
    launch(fold_heads_kernel, grid, dim3(kFoldThreads), 0, context.stream, a, heads, answers);
  }
}

}  // namespace tk::attention::gpu
