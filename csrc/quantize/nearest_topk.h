// SPDX-License-Identifier: Apache-2.0
// nearest_topk: for every row its k nearest codes, the nearest first; the N x K matrix of scores is never stored.
//
//   x, codes  (Q, N, D), (Q, K, D)  see quantize/code_search.h
//   index     (Q, N, k)  int64
//   best      (Q, N, k)  float32: squared distances, cosines or products, as nearest gives them
//
// 1 <= k <= K. Slot 0 holds what nearest finds. Slots for which no finite code is left, and all slots of a row that is
// not finite, have index -1 and best NaN.
#pragma once
#include "core/op.h"
#include "quantize/code_search.h"

namespace tk::quantize {

struct NearestTopkArgs {
  CodeSearch search;
  int64_t* index;
  float* best;
  int64_t k;
};

TK_DECLARE_OP(nearest_topk, NearestTopkArgs)

}  // namespace tk::quantize
