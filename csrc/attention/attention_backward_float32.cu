// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_backward_launch.h"
#include "attention/backward_fma.cuh"

namespace tk::attention::gpu {

void attention_backward_float32(const AttentionBackwardArgs& a, const BackwardScratch& s, bool wide, void* stream) {
  launch_centres<float>(a, s, stream);
  TK_WIDTH_SWITCH(a.shape.width, {
    using Tile = BackwardTile<float, kWidth>;
    const int64_t slots = slots_of(a.policy, a.shape.extents, Tile::kRows);
    if (const unsigned blocks = query_blocks<Tile>(a)) {
      launch(attention_query_grad_fma_kernel<kWidth>, dim3(blocks), dim3(Tile::kThreads), Tile::kQueryBytes, stream, a,
             s, slots, wide);
    }
    if (const unsigned blocks = key_blocks<Tile>(a)) {
      launch(attention_key_grad_fma_kernel<kWidth>, dim3(blocks), dim3(Tile::kThreads), Tile::kKeyBytes, stream, a, s,
             wide);
    }
  })
}

}  // namespace tk::attention::gpu
