// SPDX-License-Identifier: Apache-2.0
#include "tree/tree_attention.cuh"
#include "tree/tree_attention_launch.h"

namespace tk::tree::gpu {

void tree_attention_float16(const TreeAttentionArgs& a, const TreePlan& plan, const TreeParts& parts, void* stream) {
  TK_WIDTH_SWITCH(a.width, {
    using Few = TreeTile<f16_t, kWidth, 16, 1>;
    using Many = TreeTile<f16_t, kWidth, 16, 4>;
    if (plan.rows <= kFewRows) {
      launch_tree<Few>(tree_attention_mma_kernel<Few>, a, plan, parts, stream);
    } else {
      launch_tree<Many>(tree_attention_mma_kernel<Many>, a, plan, parts, stream);
    }
  })
}

}  // namespace tk::tree::gpu
