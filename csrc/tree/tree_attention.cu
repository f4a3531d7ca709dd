// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "attention/wide_rows.h"
#include "tree/tree_attention.cuh"
#include "tree/tree_attention_launch.h"

namespace tk::tree::gpu {
namespace {

constexpr int64_t kMost = (int64_t{1} << 31) - 1;
// Two rounds of two blocks on each of 132 multiprocessors. Calls of that many tiles have a single split and no
// workspace; the others never have twice as many blocks, and so at most 67 MB of answers of splits at width 256.
constexpr int64_t kWantedBlocks = 528;
constexpr int64_t kManyRows = 64;
constexpr int64_t kLeastOfFew = 256, kLeastOfMany = 1024;

TreePlan plan_of(const TreeAttentionArgs& a) {
  TreePlan plan;
  plan.sharing = a.heads / a.groups;
  plan.rows = plan.sharing * a.nodes;
  const bool few = plan.rows <= kFewRows;
  const int64_t tile_rows = !few ? kManyRows : a.dtype == DType::f32 && plan.rows <= 4 ? 4 : kFewRows;
  plan.tiles = divided_up(plan.rows, tile_rows);
  plan.least = few ? kLeastOfFew : kLeastOfMany;
  plan.capacity = a.table.count == 0 ? 0 : a.table.rows * (a.table.pages ? a.table.per_sequence : 1);
  const int64_t wanted = divided_up(kWantedBlocks, a.batch * a.groups * plan.tiles);
  plan.splits = clamped(wanted, 1, clamped(divided_up(plan.capacity, plan.least), 1, kWantedBlocks));
  plan.wide = attention::gpu::are_wide({&a.q, &a.k, &a.v}, {}, a.width, a.dtype);
  return plan;
}

bool is_empty(const TreeAttentionArgs& a) { return a.batch * a.heads * a.nodes == 0; }

MergeAttentionArgs merge_of(const TreeAttentionArgs& a, const TreePlan& plan, const TreeParts& parts) {
  const int64_t rows = a.batch * a.heads * a.nodes;
  return {{parts.outs, 0, 0, a.width},       rows * a.width, {parts.lses, rows, 0, 0}, a.out, a.lse, a.dtype,
          {plan.splits, 1, 1, rows, a.width}};
}

}  // namespace

void tree_attention_float32(const TreeAttentionArgs& a, const TreePlan& plan, const TreeParts& parts, void* stream){
    TK_WIDTH_SWITCH(a.width,
                    {
                      using Single = TreeTile<float, kWidth, 4, 1>;
                      using Few = TreeTile<float, kWidth, 16, 1>;
                      using Many = TreeTile<float, kWidth, 16, 4>;
                      if (plan.rows <= Single::kRows) {
                        launch_tree<Single>(tree_attention_fma_kernel<Single>, a, plan, parts, stream);
                      } else if (plan.rows <= kFewRows) {
                        launch_tree<Few>(tree_attention_fma_kernel<Few>, a, plan, parts, stream);
                      } else {
                        launch_tree<Many>(tree_attention_fma_kernel<Many>, a, plan, parts, stream);
                      }
                    })}

size_t tree_attention_workspace(const TreeAttentionArgs& a) {
  if (is_empty(a)) return 0;
  const TreePlan plan = plan_of(a);
  if (plan.splits == 1) return 0;
  return static_cast<size_t>(plan.splits * a.batch * a.heads * a.nodes * (a.width + 1)) * sizeof(float);
}

void tree_attention(const TreeAttentionArgs& a, const GpuContext& context) {
  if (is_empty(a)) return;
  const TreePlan plan = plan_of(a);
  if (plan.capacity > kMost) throw std::length_error("tree_attention: at most 2^31 - 1 rows of cache on a device");
  if (plan.rows > kMost || a.batch * a.groups * plan.splits > kMost / plan.tiles) {
    throw std::length_error("tree_attention: at most 2^31 - 1 rows of a head, and tiles of them, on a device");
  }
  TreeParts parts{};
  if (plan.splits > 1) {
    parts.outs = static_cast<float*>(context.workspace);
    parts.lses = parts.outs + plan.splits * a.batch * a.heads * a.nodes * a.width;
  }
  const auto run = a.dtype == DType::f16    ? &tree_attention_float16
                   : a.dtype == DType::bf16 ? &tree_attention_bfloat16
                                            : &tree_attention_float32;
  run(a, plan, parts, context.stream);
  if (plan.splits == 1) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_merge<float, T>(merge_of(a, plan, parts), context.stream))
}

}  // namespace tk::tree::gpu
