// SPDX-License-Identifier: Apache-2.0
// The launchers of attention_backward, one source a dtype: nvcc works on them side by side.
#pragma once
#include "attention/attention_launch.h"
#include "attention/backward_rows.cuh"

namespace tk::attention::gpu {

void attention_backward_float32(const AttentionBackwardArgs& a, const BackwardScratch& s, bool wide, void* stream);
void attention_backward_float16(const AttentionBackwardArgs& a, const BackwardScratch& s, bool wide, void* stream);
void attention_backward_bfloat16(const AttentionBackwardArgs& a, const BackwardScratch& s, bool wide, void* stream);

template <class T>
void launch_centres(const AttentionBackwardArgs& a, const BackwardScratch& s, void* stream) {
  const int64_t rows = a.shape.batch * a.shape.heads * a.shape.extents.queries;
  if (rows == 0) return;
  const auto blocks = static_cast<unsigned>(divided_up(rows, kRowThreads / 32));
  launch(attention_centres_kernel<T>, dim3(blocks), dim3(kRowThreads), 0, stream, a.grad, a.out,
         static_cast<const float*>(a.grad_lse), a.shape, s.centre, rows);
}

// Blocks of both passes; none where there is nothing to write.
template <class Tile>
unsigned query_blocks(const AttentionBackwardArgs& a) {
  if (a.shape.extents.queries == 0) return 0;
  return static_cast<unsigned>(a.shape.batch * a.shape.heads * slots_of(a.policy, a.shape.extents, Tile::kRows));
}
template <class Tile>
unsigned key_blocks(const AttentionBackwardArgs& a) {
  return static_cast<unsigned>(a.shape.batch * a.shape.groups * divided_up(a.shape.extents.keys, Tile::kRows) *
                               Tile::kParts);
}

}  // namespace tk::attention::gpu
