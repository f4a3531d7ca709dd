// SPDX-License-Identifier: Apache-2.0
// count_pairs: how often each pair of neighbouring ids occurs inside the sequences. Overlapping occurrences count:
// "aaa" holds the pair (a, a) twice. No pair reaches from one sequence into the next.
//
//   ids      (N)       int32 or int64, every value in [0, 2^31); checked by the caller where the memory is on the host
//   offsets  (B + 1)   int64, from 0 to N, never decreasing: sequence b is ids[offsets[b] .. offsets[b + 1])
//   weights  (B)       int64, what an occurrence in sequence b counts; null = 1
//   pairs    (N, 2)    int64, the pairs that occur, ascending by (left, right)
//   counts   (N)       int64, the sum over the occurrences of a pair, modulo 2^64; listed even where it is 0
//   total    (1)       int64, how many pairs there are; what lies behind them in pairs and counts is unspecified
//
// On a device a pair with an id outside [0, 2^31) is passed over.
#pragma once
#include "core/op.h"

namespace tk::bpe {

struct CountPairsArgs {
  const void* ids;
  const int64_t* offsets;
  const int64_t* weights;
  int64_t* pairs;
  int64_t* counts;
  int64_t* total;
  DType dtype;            // of ids
  int64_t tokens, batch;  // N, B
};

TK_DECLARE_OP(count_pairs, CountPairsArgs)

}  // namespace tk::bpe
