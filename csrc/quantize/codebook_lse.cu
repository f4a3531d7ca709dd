// SPDX-License-Identifier: Apache-2.0
#include "quantize/codebook_lse.cuh"

namespace tk::quantize::gpu {
namespace {

struct LsePlan {
  SoftPair pair;
  int64_t tiles, parts_count;
  SoftStats* parts;
  int64_t floats;
};

LsePlan lse_plan(const CodebookLseArgs& a, void* workspace) {
  SoftMemory memory{static_cast<float*>(workspace)};
  LsePlan plan{};
  plan.pair = soft_pair(a, &memory);
  plan.tiles = soft_tiles(a.rows);
  plan.parts_count = soft_splits(plan.tiles * a.books, soft_tiles(a.codes_count));
  plan.parts = reinterpret_cast<SoftStats*>(memory.take(4 * plan.parts_count * a.books * a.rows));
  plan.floats = memory.used;
  return plan;
}

template <class T>
void launch_lse(const CodebookLseArgs& a, const GpuContext& context) {
  const LsePlan plan = lse_plan(a, context.workspace);
  launch_norms<T>(plan.pair, context.stream);
  launch(soft_rows_kernel<T, StatsRule>, soft_grid(plan.tiles * a.books, plan.parts_count), dim3(kSoftThreads), 0,
         context.stream, plan.pair, plan.tiles, StatsRule{plan.pair.base, plan.parts});
  launch(codebook_lse_join_kernel, soft_grid((a.books * a.rows + kSoftThreads - 1) / kSoftThreads), dim3(kSoftThreads),
         0, context.stream, a, plan.pair, static_cast<const SoftStats*>(plan.parts), plan.parts_count);
}

}  // namespace

size_t codebook_lse_workspace(const CodebookLseArgs& a) {
  return static_cast<size_t>(lse_plan(a, nullptr).floats) * sizeof(float);
}

void codebook_lse(const CodebookLseArgs& a, const GpuContext& context) {
  if (a.books * a.rows == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_lse<T>(a, context))
}

}  // namespace tk::quantize::gpu
