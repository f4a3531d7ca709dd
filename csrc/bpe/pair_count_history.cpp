// SPDX-License-Identifier: Apache-2.0
// Touches only the words in which the pair of a step stands, and in them only the pairs beside a merge.
#include "bpe/pair_count_history.h"

#include <algorithm>

namespace tk::bpe::host {
namespace {

struct Counted {
  PairKey key = kNoPair;
  int64_t count = 0;
  int64_t noted = 0;  // the count that the history has
  int64_t step = -1;  // the last one that touched it
  uint32_t where = 0;
};

class History {
 public:
  explicit History(const PairCountHistoryArgs& a) : a_(a), symbols_(a.words.offsets[a.words.words]) {
    for (int64_t w = 0; w < a.words.words; ++w) {
      int64_t length = 0;
      a.words.for_each_symbol(w, [&](uint32_t symbol) { word(w)[length++] = symbol; });
      length_.push_back(length);
    }
  }

  void run() {
    for (int64_t w = 0; w < a_.words.words; ++w) count_word(w);
    close_step();
    for (step_ = 1; step_ <= a_.steps; ++step_) {
      if (*a_.progress) (*a_.progress)(step_);
      apply(a_.merges[step_ - 1]);
      close_step();
    }
    a_.off->push_back(static_cast<int64_t>(a_.pairs->size()));
  }

 private:
  uint32_t* word(int64_t w) { return symbols_.data() + a_.words.offsets[w]; }

  void count_word(int64_t w) {
    if (a_.words.counts[w] == 0) length_[w] = 0;
    for (int64_t i = 0; i + 1 < length_[w]; ++i) gain(pair_key(word(w)[i], word(w)[i + 1]), w);
  }

  Counted& touch(PairKey key) {
    Counted& pair = pairs_[key];
    if (pair.step < 0) {
      pair.where = static_cast<uint32_t>(where_.size());
      where_.emplace_back();
    }
    if (pair.step != step_) touched_.push_back(key);
    pair.step = step_;
    return pair;
  }

  void gain(PairKey key, int64_t w) {
    Counted& pair = touch(key);
    pair.count += a_.words.counts[w];
    std::vector<uint32_t>& words = where_[pair.where];
    if (words.empty() || words.back() != w) words.push_back(static_cast<uint32_t>(w));
  }

  void apply(const Merge& merge) {
    Counted* pair = pairs_.find(pair_key(merge.left, merge.right));
    if (!pair) return;
    std::vector<uint32_t> words;
    words.swap(where_[pair->where]);
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    for (const uint32_t w : words) rewrite(w, merge);
  }

  void rewrite(uint32_t w, const Merge& merge) {
    uint32_t* symbols = word(w);
    const int64_t length = length_[w];
    old_.assign(symbols, symbols + length);
    in_merge_.assign(length, 0);
    is_result_.clear();
    int64_t kept = 0;
    for (int64_t i = 0; i < length; ++i, ++kept) {
      const bool here = i + 1 < length && old_[i] == merge.left && old_[i + 1] == merge.right;
      symbols[kept] = here ? merge.result : old_[i];
      is_result_.push_back(here);
      if (here) in_merge_[i] = in_merge_[i + 1] = 1, ++i;
    }
    length_[w] = kept;
    for (int64_t i = 0; i + 1 < length; ++i) {
      if (in_merge_[i] | in_merge_[i + 1]) touch(pair_key(old_[i], old_[i + 1])).count -= a_.words.counts[w];
    }
    for (int64_t i = 0; i + 1 < kept; ++i) {
      if (is_result_[i] | is_result_[i + 1]) gain(pair_key(symbols[i], symbols[i + 1]), w);
    }
  }

  void close_step() {
    a_.off->push_back(static_cast<int64_t>(a_.pairs->size()));
    std::sort(touched_.begin(), touched_.end());
    for (const PairKey key : touched_) {
      Counted& pair = *pairs_.find(key);
      if (pair.count == pair.noted) continue;
      pair.noted = pair.count;
      a_.pairs->push_back(key);
      a_.counts->push_back(pair.count);
    }
    touched_.clear();
  }

  const PairCountHistoryArgs& a_;
  std::vector<uint32_t> symbols_;  // each word where it began, shrinking in place
  std::vector<int64_t> length_;
  PairTable<Counted> pairs_;
  std::vector<std::vector<uint32_t>> where_;  // words in which a pair has stood
  std::vector<PairKey> touched_;
  std::vector<uint32_t> old_;
  std::vector<uint8_t> in_merge_, is_result_;
  int64_t step_ = 0;
};

}  // namespace

void pair_count_history(const PairCountHistoryArgs& a) { History(a).run(); }

}  // namespace tk::bpe::host
