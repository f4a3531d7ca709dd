// SPDX-License-Identifier: Apache-2.0
// block_offsets: offsets[r, c] = sizes[r, 0] + ... + sizes[r, c - 1], one more than there are blocks.
//
//   sizes    (R, C)      int64, none negative, each row adding up to `total`; checked by the caller where the memory is
//                        on the host. On a device sums are held within [0, total], so that no kernel reads elsewhere
//   offsets  (R, C + 1)  int64, contiguous; the last one is `total`
#pragma once
#include "core/op.h"

namespace tk::attention {

struct BlockOffsetsArgs {
  const int64_t* sizes;
  int64_t* offsets;
  int64_t rows, blocks, total;
};

TK_DECLARE_OP(block_offsets, BlockOffsetsArgs)

}  // namespace tk::attention
