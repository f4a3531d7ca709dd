// SPDX-License-Identifier: Apache-2.0
// sort_by_label: a stable counting sort. perm[b] lists the tokens by ascending label, tokens of one label in ascending
// order; those of label k are perm[b, offsets[b, k] .. offsets[b, k + 1]).
//
//   labels   (B, N)      int64, every value in [0, K); checked by the caller where the memory is on the host
//   perm     (B, N)      int64
//   offsets  (B, K + 1)  int64
//
// On a device a label outside [0, K) drops its token: the last entries of perm then are -1, which the ops that take a
// permutation pass over.
#pragma once
#include "core/op.h"

namespace tk::cluster {

struct SortByLabelArgs {
  const int64_t* labels;
  int64_t* perm;
  int64_t* offsets;
  int64_t batch, tokens, clusters;  // B, N, K
};

TK_DECLARE_OP(sort_by_label, SortByLabelArgs)

}  // namespace tk::cluster
