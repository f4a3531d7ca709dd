// SPDX-License-Identifier: Apache-2.0
// Which neighbours merge, and how every token comes about.
//
// Where merging the bytes of every token goes through ascending ranks, bytes inside a token merge in any context as
// they do alone (by induction over merges: nothing merges across a boundary that is still there at the end). So of all
// pairs that a token could be cut into, merging meets just one, and only that one is kept: a table of a quarter of the
// size. It is found from the tokens made before: the first cut whose parts are stable neighbours up to the rank of the
// token itself. If any token has none, every pair is kept, and make_history looks closer.
#pragma once
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "bpe/vocab_view.h"

namespace tk::bpe {

struct History {
  explicit History(const VocabView& v);

  std::vector<int32_t> left, right, order;
  HistoryView view;
};

struct VocabPairs {
  std::vector<uint64_t> packed, filter;  // or empty, and
  std::vector<PairSlot> slots;           // all pairs
  std::vector<PairMerge> of_bytes;       // VocabView::byte_pairs
  int shift = 0;
  std::unique_ptr<History> history;  // with `packed` only
};

// By the bytes of tokens, or by a list of merges in tokens (left, right, result). Pieces are indexed already.
VocabPairs index_pairs(const VocabView& v, const std::vector<int32_t>& merges, bool ranked);

// Of a vocabulary with all its pairs.
std::unique_ptr<History> make_history(const VocabView& v);

inline int log2_slots(size_t entries) {
  const int bits = static_cast<int>(std::bit_width(entries * 2));
  return bits < 4 ? 4 : bits;
}

}  // namespace tk::bpe
