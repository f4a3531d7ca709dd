// SPDX-License-Identifier: Apache-2.0
// pair_count_history: how the counts of pairs change while merges are applied in a given order.
//
//   words   unique words with counts; symbols are any ids
//   merges  (T) of (left, right, result), applied one after the other to every word, left to right without overlap
//   pairs   out: step 0 has every pair that occurs, step t = 1..T those whose count merge t changed, each step in
//           ascending order of (left, right)
//   counts  out: the new count of each of them; 0 when it is gone
//   off     out: (T + 2), where each step begins in pairs and counts
//
// Counts are those of train_merges: overlapping places count, words of count 0 do not. A merge that applies nowhere
// gives an empty step. Source: arXiv 2407.16607, section 3.
#pragma once
#include <vector>

#include "bpe/train_pairs.h"
#include "bpe/train_words.h"

namespace tk::bpe {

struct PairCountHistoryArgs {
  Words words;
  const Merge* merges;
  int64_t steps;  // T
  const Progress* progress;
  std::vector<PairKey>* pairs;
  std::vector<int64_t>* counts;
  std::vector<int64_t>* off;
};

namespace ref {
void pair_count_history(const PairCountHistoryArgs&);
}
namespace host {
void pair_count_history(const PairCountHistoryArgs&);
}

}  // namespace tk::bpe
