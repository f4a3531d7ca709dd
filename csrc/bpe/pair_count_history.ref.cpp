// SPDX-License-Identifier: Apache-2.0
// Counts every pair anew after each merge.
#include "bpe/pair_count_history.h"

#include "bpe/word_lists.h"

namespace tk::bpe::ref {

void pair_count_history(const PairCountHistoryArgs& a) {
  std::vector<Word> words = word_lists(a.words);
  std::map<PairKey, int64_t> before;
  for (int64_t t = 0; t <= a.steps; ++t) {
    a.off->push_back(static_cast<int64_t>(a.pairs->size()));
    if (*a.progress) (*a.progress)(t);
    if (t > 0) {
      for (Word& word : words) word = replaced(word, a.merges[t - 1]);
    }
    std::map<PairKey, int64_t> now = count_pairs(words, a.words.counts);
    std::map<PairKey, int64_t> either = before;
    either.insert(now.begin(), now.end());
    for (const auto& [pair, unused] : either) {
      if (before.count(pair) && now.count(pair) && before[pair] == now[pair]) continue;
      a.pairs->push_back(pair);
      a.counts->push_back(now.count(pair) ? now[pair] : 0);
    }
    before = std::move(now);
  }
  a.off->push_back(static_cast<int64_t>(a.pairs->size()));
}

}  // namespace tk::bpe::ref
