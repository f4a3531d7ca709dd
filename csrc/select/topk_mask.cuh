// SPDX-License-Identifier: Apache-2.0
// One block a row: the cut, then one walk over the row.
#pragma once
#include "select/key_cut.cuh"
#include "select/topk_mask.h"

namespace tk::selection::gpu {

template <class T>
__global__ void __launch_bounds__(kThreads) topk_mask_kernel(TopkMaskArgs a) {
  const int64_t row = blockIdx.x;
  const RowKeys<T> keys = row_keys<T>(a.from, row);
  const MarkChosen mark{a.out + row * a.from.width};
  walk_items(keys, a.k > 0 ? find_key_cut(keys, a.k) : KeyCut{0xffffffffu, 0}, mark);
}

}  // namespace tk::selection::gpu
