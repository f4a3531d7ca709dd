// SPDX-License-Identifier: Apache-2.0
// All words in one array, a symbol over as many cells as it has initial symbols.
//
// The first and the last cell of a symbol hold its id, those between them hold kGap; a gap stands before every word and
// behind the last one. So both neighbours of a symbol are one look away, and a place that was once the start of a
// symbol holds the id of another one or kGap when that symbol is gone: what was noted about it is seen to be stale.
#pragma once
#include <cstdint>
#include <vector>

#include "bpe/train_words.h"

namespace tk::bpe {

constexpr uint32_t kGap = ~uint32_t{0};

// A count that usually fits 31 bits; others are looked up.
class Weights {
 public:
  uint32_t pack(int64_t count) {
    if (count < kLarge) return static_cast<uint32_t>(count);
    large_.push_back(count);
    return static_cast<uint32_t>(large_.size() - 1) | kLarge;
  }
  int64_t operator()(uint32_t packed) const { return packed < kLarge ? packed : large_[packed & ~kLarge]; }

 private:
  static constexpr uint32_t kLarge = uint32_t{1} << 31;
  std::vector<int64_t> large_;
};

// Where a pair stands: the first cell of its left symbol.
struct Place {
  uint32_t cell;
  uint32_t weight;  // of its word, packed
};

class Cells {
 public:
  explicit Cells(const Words& words) {
    cells_.reserve(words.offsets[words.words] + words.words + 1);
    cells_.push_back(kGap);
    for (int64_t w = 0; w < words.words; ++w) {
      if (words.counts[w] == 0) continue;
      const size_t begin = cells_.size();
      words.for_each_symbol(w, [&](uint32_t symbol) { cells_.push_back(symbol); });
      const size_t length = cells_.size() - begin;
      if (length < 2) {
        cells_.resize(begin);
        continue;
      }
      pairs_ += words.counts[w] * static_cast<int64_t>(length - 1);
      starts_.push_back({static_cast<uint32_t>(begin), weights.pack(words.counts[w])});
      cells_.push_back(kGap);
    }
  }

  // Neighbours at the start, each as often as its word.
  int64_t pairs() const { return pairs_; }

  const uint32_t* at(uint32_t cell) const { return cells_.data() + cell; }
  uint32_t* at(uint32_t cell) { return cells_.data() + cell; }

  // visit(left, right, place) for every pair of neighbours, in ascending places; `span` are the lengths of symbols.
  // Words of one symbol are forgotten.
  template <class Visit>
  void for_each_pair(const uint32_t* span, Visit&& visit) {
    size_t kept = 0;
    for (const Place word : starts_) {
      uint32_t here = word.cell;
      uint32_t left = *at(here);
      for (;;) {
        const uint32_t next = here + span[left];
        const uint32_t right = *at(next);
        if (right == kGap) break;
        visit(left, right, Place{here, word.weight});
        here = next;
        left = right;
      }
      if (here != word.cell) starts_[kept++] = word;
    }
    starts_.resize(kept);
  }

  Weights weights;

 private:
  std::vector<uint32_t> cells_;
  std::vector<Place> starts_;
  int64_t pairs_ = 0;
};

}  // namespace tk::bpe
