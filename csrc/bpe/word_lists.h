// SPDX-License-Identifier: Apache-2.0
// Words as lists of ids, for the references: slow and plain.
#pragma once
#include <map>
#include <vector>

#include "bpe/train_pairs.h"
#include "bpe/train_words.h"

namespace tk::bpe::ref {

using Word = std::vector<uint32_t>;

inline std::vector<Word> word_lists(const Words& words) {
  std::vector<Word> lists;
  for (int64_t w = 0; w < words.words; ++w) {
    lists.emplace_back();
    words.for_each_symbol(w, [&](uint32_t symbol) { lists.back().push_back(symbol); });
  }
  return lists;
}

// Every pair of neighbours, in ascending order.
inline std::map<PairKey, int64_t> count_pairs(const std::vector<Word>& words, const int64_t* counts) {
  std::map<PairKey, int64_t> total;
  for (size_t w = 0; w < words.size(); ++w) {
    if (counts[w] == 0) continue;
    for (size_t i = 0; i + 1 < words[w].size(); ++i) total[pair_key(words[w][i], words[w][i + 1])] += counts[w];
  }
  return total;
}

inline Word replaced(const Word& word, const Merge& merge) {
  Word out;
  for (size_t i = 0; i < word.size(); ++i) {
    const bool here = i + 1 < word.size() && word[i] == merge.left && word[i + 1] == merge.right;
    out.push_back(here ? merge.result : word[i]);
    i += here;
  }
  return out;
}

}  // namespace tk::bpe::ref
