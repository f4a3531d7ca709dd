// SPDX-License-Identifier: Apache-2.0
// apply_merges: a list of merges applied to sequences of ids, one merge after the other, each in one pass from left to
// right without overlap: (a, a) -> b makes of "aaa" the ids b, a. The list is gone through once: a pair that a merge
// makes and that only that merge or an earlier one of the list would join stays as it is.
//
//   ids      (N)       int32 or int64, every value in [0, 2^31)
//   offsets  (B + 1)   int64, from 0 to N, never decreasing: sequence b is ids[offsets[b] .. offsets[b + 1])
//   merges   (M, 3)    int64 (left, right, result), every value in [0, 2^31); a pair may be listed several times
//   out      (N)       dtype of ids, the merged sequences without gaps; unspecified behind the last one
//   starts   (B + 1)   int64, where each merged sequence starts in out
#pragma once
#include "core/op.h"

namespace tk::bpe {

struct ApplyMergesArgs {
  const void* ids;
  const int64_t* offsets;
  const int64_t* merges;
  void* out;
  int64_t* starts;
  DType dtype;                         // of ids and out
  int64_t tokens, batch, merge_count;  // N, B, M
};

TK_DECLARE_OP(apply_merges, ApplyMergesArgs)

}  // namespace tk::bpe
