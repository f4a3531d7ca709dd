// SPDX-License-Identifier: Apache-2.0
// nearest_rank: for every row the code of a given rank, 0 being the nearest; the N x K matrix of scores is never
// stored.
//
//   x, codes  (Q, N, D), (Q, K, D)  see quantize/code_search.h
//   rank      (Q, N)  int64, each in [0, K); rows contiguous, the books may share one (stride 0)
//   index     (Q, N)  int64: what nearest_topk has in slot rank[n]
//   best      (Q, N)  float32
//
// Where fewer than rank[n] + 1 codes are finite, and for a row that is not finite, index is -1 and best NaN. A rank out
// of range counts as the nearest one in it (the binding refuses it on the host).
#pragma once
#include "core/op.h"
#include "quantize/code_search.h"

namespace tk::quantize {

struct NearestRankArgs {
  CodeSearch search;
  const int64_t* rank;
  int64_t rank_book_stride;
  int64_t* index;
  float* best;
};

TK_DECLARE_OP(nearest_rank, NearestRankArgs)

}  // namespace tk::quantize
