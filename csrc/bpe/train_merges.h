// SPDX-License-Identifier: Apache-2.0
// train_merges: byte-pair training. Again and again the most frequent pair of neighbours becomes one token.
//
//   words   unique words with counts; symbols are ids below `tokens`
//   merges  out: (left, right, result) in the order they were made
//
// The count of a pair is the sum over words of the word's count times the places where the pair stands, overlapping
// places of runs (aaa) each for itself. The pair with the largest count is next; among equals the one with the smaller
// left id, then the smaller right id. It is replaced in every word from left to right without overlap by the token
// spelled left + right: an old one of that spelling, or the next free id. Training ends when the vocabulary has
// `vocab_size` tokens, after `most_merges`, or when no count reaches `min_count`.
// A pair with a merged token in it is eligible only if both lengths (in symbols of words) add up to less than
// `length_limit`; a pair of two initial tokens always is.
#pragma once
#include <vector>

#include "bpe/token_texts.h"
#include "bpe/train_words.h"

namespace tk::bpe {

struct TrainMergesArgs {
  Words words;
  TokenTexts* texts;  // spellings of the initial tokens; grows with every new one
  int64_t vocab_size;
  int64_t most_merges;
  int64_t min_count;     // at least 1
  int64_t length_limit;  // kNoLimit for none
  const Progress* progress;
  std::vector<Merge>* merges;
};

inline constexpr int64_t kNoLimit = INT64_MAX;
inline constexpr int64_t kMostSymbols = (int64_t{1} << 32) - 16;  // of all words, with one gap for each

namespace ref {
void train_merges(const TrainMergesArgs&);
}
namespace host {
void train_merges(const TrainMergesArgs&);
}

}  // namespace tk::bpe
