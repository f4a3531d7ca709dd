// SPDX-License-Identifier: Apache-2.0
// compact_rows: the positions of the kept tokens, row after row, in order, and where each row starts. In two ops,
// because the caller allocates `index` once it knows the total:
//
//   count_rows:    cu_seqlens[0] = 0, cu_seqlens[b + 1] = cu_seqlens[b] + number of kept tokens of row b
//   compact_rows:  index[cu_seqlens[b] ..] = b * N + n for every kept n of row b, ascending
//
//   mask        (B, N)    uint8, a token is kept where it is not 0; rows contiguous, any outer stride
//   cu_seqlens  (B + 1)   int64, contiguous
//   index       (total)   int64, contiguous
//
// compact_rows writes row b only inside [cu_seqlens[b], cu_seqlens[b + 1]), whatever the mask says.
#pragma once
#include "core/op.h"

namespace tk::merge {

struct CountRowsArgs {
  const uint8_t* mask;
  int64_t* cu_seqlens;
  int64_t batch, tokens;      // B, N
  int64_t mask_batch_stride;  // in elements
};

struct CompactRowsArgs {
  const uint8_t* mask;
  const int64_t* cu_seqlens;
  int64_t* index;
  int64_t batch, tokens;
  int64_t mask_batch_stride;
};

TK_DECLARE_OP(count_rows, CountRowsArgs)
TK_DECLARE_OP(compact_rows, CompactRowsArgs)

}  // namespace tk::merge
