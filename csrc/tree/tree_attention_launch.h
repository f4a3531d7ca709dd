// SPDX-License-Identifier: Apache-2.0
// The launchers of tree_attention, one source a dtype: nvcc works on them side by side.
#pragma once
#include "attention/attention_launch.h"
#include "tree/tree_tile.cuh"

namespace tk::tree::gpu {

void tree_attention_float32(const TreeAttentionArgs& a, const TreePlan& plan, const TreeParts& parts, void* stream);
void tree_attention_float16(const TreeAttentionArgs& a, const TreePlan& plan, const TreeParts& parts, void* stream);
void tree_attention_bfloat16(const TreeAttentionArgs& a, const TreePlan& plan, const TreeParts& parts, void* stream);

inline dim3 blocks_of(const TreeAttentionArgs& a, const TreePlan& plan) {
  return dim3(static_cast<unsigned>(a.batch * a.groups * plan.splits * plan.tiles));
}

template <class Tile, class Kernel>
void launch_tree(Kernel* kernel, const TreeAttentionArgs& a, const TreePlan& plan, const TreeParts& parts,
                 void* stream) {
  launch(kernel, blocks_of(a, plan), dim3(Tile::kThreads), Tile::kBytes, stream, a, plan, parts);
}

}  // namespace tk::tree::gpu
