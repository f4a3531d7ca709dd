// SPDX-License-Identifier: Apache-2.0
// fold_columns: sums of columns added up further, over heads, over groups of keys, or both.
//
//   out[b,h,j]  = sums[b,h,j]                                  one of the two must be asked for
//   over heads    out[b,j]   = sum_h sums[b,h,j]
//   groups        out[b,h,g] = sum of sums[b,h,j] over the keys j with groups[b,j] == g
//   both          out[b,g]   = sum over h, then j
//
//   sums    (B, H, Nk)  float32, contiguous
//   groups  (B, Nk)     int64 in [-1, C), -1 for a key of no group, or null; checked by the caller where the memory is
//                       on the host; on a device a value outside counts as -1
//   out     (B, H, Nk), (B, Nk), (B, H, C) or (B, C)  float32, contiguous
//
// Added in float32 or better in an order given by the extents alone.
#pragma once
#include "core/op.h"

namespace tk::attention {

struct FoldColumnsArgs {
  const float* sums;
  const int64_t* groups;
  int64_t groups_batch_stride;  // 0: the same groups in every sample
  float* out;
  int64_t batch, heads, keys, count;  // B, H, Nk, C; C is -1 without groups, which may also be empty, and null
  bool over_heads;
};

TK_INLINE bool by_groups(const FoldColumnsArgs& a) { return a.count >= 0; }
TK_INLINE int64_t width_of(const FoldColumnsArgs& a) { return by_groups(a) ? a.count : a.keys; }

TK_DECLARE_OP(fold_columns, FoldColumnsArgs)

}  // namespace tk::attention
