// SPDX-License-Identifier: Apache-2.0
#include "select/accumulate_importance.cuh"

namespace tk::selection::gpu {
namespace {

int64_t chunks_of(const AccumulateImportanceArgs& a) {
  return (a.heads * a.queries + kImportanceRows - 1) / kImportanceRows;
}

dim3 blocks_of(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kImportanceThreads - 1) / kImportanceThreads));
}

}  // namespace

size_t accumulate_importance_workspace(const AccumulateImportanceArgs& a) {
  return static_cast<size_t>(a.batch * chunks_of(a) * a.keys) * sizeof(float);
}

void accumulate_importance(const AccumulateImportanceArgs& a, const GpuContext& context) {
  if (a.batch * a.keys == 0) return;
  const int64_t chunks = chunks_of(a);
  const int64_t blocks = (a.keys + kImportanceThreads - 1) / kImportanceThreads;
  auto* sums = static_cast<float*>(context.workspace);
  if (chunks > 0) {
    const dim3 grid(static_cast<unsigned>(a.batch * chunks * blocks));
    TK_FLOAT_SWITCH(
        a.dtype, T,
        launch(importance_chunks_kernel<T>, grid, dim3(kImportanceThreads), 0, context.stream, a, sums, chunks, blocks))
  }
  launch(importance_fold_kernel, blocks_of(a.batch * a.keys), dim3(kImportanceThreads), 0, context.stream, a, sums,
         chunks);
}

}  // namespace tk::selection::gpu
