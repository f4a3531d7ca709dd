// SPDX-License-Identifier: Apache-2.0
// Unigram models: a text is a sequence of pieces, each drawn by itself; log_prob[p] belongs to pattern p of a trie. A
// pattern of -inf is as good as absent; NaN and +inf are not allowed.
//
// unigram_viterbi: the segmentation whose log-probabilities sum to the most. Sums run from left to right in float64.
// Among equal sums for a prefix of the text, its last piece is the longest. Where no pattern is the unit that starts
// there (a byte or a UTF-8 character, see tokenize_longest.h), an unknown one of `score` may stand for it; it loses to
// patterns of the same sum.
//
// unigram_expected: how often each pattern is used, summed over texts, each text counted `counts[b]` times and its
// segmentations weighted by their probability. Sums over texts run in their order.
#pragma once
#include <cstdint>
#include <vector>

#include "bpe/ragged.h"
#include "bpe/tokenize_longest.h"
#include "bpe/trie.h"

namespace tk::bpe {

struct UnknownPiece : Unknown {
  double score = 0.0;
  bool fuse = false;  // neighbouring unknown units give one id
};

struct ExpectedCounts {
  std::vector<double> expected;  // by pattern
  double log_likelihood = 0.0;
  int64_t failed_text = -1;  // the first that has no segmentation
};

RaggedIds unigram_viterbi(const Trie& trie, const double* log_prob, const Texts& texts, const UnknownPiece& unknown);
ExpectedCounts unigram_expected(const Trie& trie, const double* log_prob, const Texts& texts, const double* counts);

namespace ref {
RaggedIds unigram_viterbi(const Trie& trie, const double* log_prob, const Texts& texts, const UnknownPiece& unknown);
ExpectedCounts unigram_expected(const Trie& trie, const double* log_prob, const Texts& texts, const double* counts);
}  // namespace ref

}  // namespace tk::bpe
