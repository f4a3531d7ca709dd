// SPDX-License-Identifier: Apache-2.0
// codebook_stats: how evenly the codes of a book are used. With p_k = counts_k / sum counts:
//   counts[q, k]  = how many n have index[q, n] = k
//   usage         = codes that were used / K
//   entropy       = -sum_k p_k log p_k, in nats, 0 log 0 = 0
//   perplexity    = exp(entropy)
//   normalized    = entropy / log(codes that were used); 0 where fewer than two were
//
//   index   (Q, N)  int64, contiguous, every value in [-1, K); -1 is not counted; checked by the caller where the
//   memory
//                   is on the host, and on a device any other value is not counted either
//   counts  (Q, K)  int64, contiguous; K at least 1
//   usage, entropy, perplexity, normalized  (Q)  float32
//
// Nothing counted: usage, entropy and normalized are 0, perplexity is 1.
#pragma once
#include "core/op.h"

namespace tk::quantize {

struct CodebookStatsArgs {
  const int64_t* index;
  int64_t* counts;
  float *usage, *entropy, *perplexity, *normalized;
  int64_t books, rows, codes;  // Q, N, K
};

TK_DECLARE_OP(codebook_stats, CodebookStatsArgs)

}  // namespace tk::quantize
