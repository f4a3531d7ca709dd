// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_launch.h"
#include "attention/attention_mma.cuh"

namespace tk::attention::gpu {

void attention_bfloat16(const AttentionArgs& a, int64_t slots, bool wide, void* stream) {
  const auto blocks = static_cast<unsigned>(a.shape.batch * a.shape.heads * slots);
  TK_WIDTH_SWITCH(a.shape.width, {
    using Tile = ForwardTile<bf16_t, kWidth>;
    launch(attention_mma_kernel<bf16_t, kWidth>, dim3(blocks), dim3(Tile::kThreads), Tile::kBytes, stream, a, slots,
           wide);
  })
}

}  // namespace tk::attention::gpu
