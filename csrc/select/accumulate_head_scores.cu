// SPDX-License-Identifier: Apache-2.0
#include "select/accumulate_head_scores.cuh"

namespace tk::selection::gpu {
namespace {

int64_t chunks_of(const AccumulateHeadScoresArgs& a) { return (a.queries + kHeadRows - 1) / kHeadRows; }

}  // namespace

size_t accumulate_head_scores_workspace(const AccumulateHeadScoresArgs& a) {
  return static_cast<size_t>(a.batch * a.heads * chunks_of(a)) * sizeof(float);
}

void accumulate_head_scores(const AccumulateHeadScoresArgs& a, const GpuContext& context) {
  const int64_t heads = a.batch * a.heads;
  if (heads == 0) return;
  const int64_t chunks = chunks_of(a);
  auto* sums = static_cast<float*>(context.workspace);
  if (chunks > 0) {
    TK_FLOAT_SWITCH(a.dtype, T,
                    launch(head_chunks_kernel<T>, dim3(static_cast<unsigned>(heads * chunks)), dim3(kSumThreads), 0,
                           context.stream, a, sums, chunks))
  }
  launch(head_fold_kernel, dim3(static_cast<unsigned>((heads + kSumThreads - 1) / kSumThreads)), dim3(kSumThreads), 0,
         context.stream, a, sums, chunks);
}

}  // namespace tk::selection::gpu
