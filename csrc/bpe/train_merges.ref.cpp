// SPDX-License-Identifier: Apache-2.0
// Counts every pair anew before each merge.
#include "bpe/train_merges.h"

#include "bpe/word_lists.h"

namespace tk::bpe::ref {

void train_merges(const TrainMergesArgs& a) {
  std::vector<Word> words = word_lists(a.words);
  std::vector<int64_t> length(a.texts->size(), 1);
  while (a.texts->size() < a.vocab_size && static_cast<int64_t>(a.merges->size()) < a.most_merges) {
    if (*a.progress) (*a.progress)(static_cast<int64_t>(a.merges->size()));
    PairKey best = kNoPair;
    int64_t most = a.min_count - 1;
    for (const auto& [pair, count] : count_pairs(words, a.words.counts)) {  // in ascending order: the first one wins
      const int64_t joined = length[left_of(pair)] + length[right_of(pair)];
      if (count > most && (joined == 2 || joined < a.length_limit)) best = pair, most = count;
    }
    if (best == kNoPair) return;
    const uint32_t left = left_of(best), right = right_of(best);
    const Merge merge{left, right, a.texts->join(left, right)};
    length.resize(a.texts->size());
    length[merge.result] = length[left] + length[right];
    for (Word& word : words) word = replaced(word, merge);
    a.merges->push_back(merge);
  }
}

}  // namespace tk::bpe::ref
