// SPDX-License-Identifier: Apache-2.0
#include "bpe/vocab_pairs.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "bpe/merge.h"

namespace tk::bpe {

History::History(const VocabView& v)
    : left(static_cast<size_t>(v.size)), right(static_cast<size_t>(v.size)), order(static_cast<size_t>(v.size), -1) {
  std::iota(left.begin(), left.end(), 0);
  std::iota(right.begin(), right.end(), 0);
  view = {left.data(), right.data(), order.data(), true};
}

namespace {

// Histories of tokens, from pairs that come in ascending rank.
class Historian {
 public:
  explicit Historian(const VocabView& v) : v_(v), history_(std::make_unique<History>(v)) {}

  bool knows(int32_t token) const { return history_->order[token] >= 0 || token_length(v_, token) == 1; }

  // Whether this is the pair that makes its result: both parts are made before, and are stable neighbours until then.
  bool makes(const PairSlot& pair) const {
    return knows(pair.left) && knows(pair.right) && history_->order[pair.left] < pair.rank &&
           history_->order[pair.right] < pair.rank &&
           pair_is_stable(v_, history_->view, pair.left, pair.right, pair.rank);
  }

  void note(const PairSlot& pair) {
    history_->left[pair.result] = pair.left;
    history_->right[pair.result] = pair.right;
    history_->order[pair.result] = pair.rank;
  }

  History& history() { return *history_; }
  std::unique_ptr<History> take() { return std::move(history_); }

 private:
  const VocabView& v_;
  std::unique_ptr<History> history_;
};

// Which lengths tokens have: huge tokens among short ones are not cut everywhere.
std::vector<bool> lengths_of(const VocabView& v) {
  std::vector<bool> occurs(static_cast<size_t>(v.longest) + 1, false);
  for (int32_t token = 0; token < v.size; ++token) occurs[token_length(v, token)] = true;
  return occurs;
}

// Calls visit(pair) for the ways to cut a token into two tokens, until it says true; says whether it did.
template <class Visit>
bool any_cut(const VocabView& v, const std::vector<bool>& occurs, int32_t token, Visit&& visit) {
  const uint8_t* p = v.bytes + v.offsets[token];
  const int64_t n = token_length(v, token);
  for (int64_t cut = n - 1; cut > 0; --cut) {
    if (!occurs[cut] || !occurs[n - cut]) continue;
    const int32_t left = find_token(v, p, cut);
    if (left == kNoToken) continue;
    const int32_t right = find_token(v, p + cut, n - cut);
    if (right != kNoToken && visit(PairSlot{left, right, token, token})) return true;
  }
  return false;
}

class Packer {
 public:
  Packer(const VocabView& v, bool ranked) : v_(v), historian_(v_) {
    const int bits = log2_slots(static_cast<size_t>(v.size));
    index_.packed.assign(size_t{1} << bits, kEmptyPair);
    index_.filter.assign((size_t{1} << (bits + kFilterBits)) / 64, 0);
    v_.pair_filter = index_.filter.data();
    index_.shift = 64 - bits;
    v_.packed_pairs = index_.packed.data();
    v_.pair_shift = index_.shift;
    v_.orders = ranked ? nullptr : historian_.history().order.data();
  }

  bool add_ranked() {
    const std::vector<bool> occurs = lengths_of(v_);
    for (int32_t token = 0; token < v_.size; ++token) {
      if (token_length(v_, token) == 1) continue;
      if (!any_cut(v_, occurs, token, [&](const PairSlot& pair) { return add(pair); })) return false;
    }
    return true;
  }

  bool add_merges(const std::vector<int32_t>& merges) {
    for (size_t i = 0; i < merges.size(); i += 3) {
      const PairSlot pair{merges[i], merges[i + 1], static_cast<int32_t>(i / 3), merges[i + 2]};
      if (!historian_.knows(pair.result)) {
        add(pair);
      } else if (historian_.history().left[pair.result] == pair.left) {
        return false;  // listed twice: the last one counts
      }
    }
    for (size_t i = 2; i < merges.size(); i += 3) {
      if (!historian_.knows(merges[i])) return false;
    }
    return true;
  }

  VocabPairs take() {
    index_.history = historian_.take();
    return std::move(index_);
  }

 private:
  bool add(const PairSlot& pair) {
    if (!historian_.makes(pair)) return false;
    historian_.note(pair);
    const uint64_t hash = hash_pair(pair.left, pair.right);
    const uint64_t bit = hash >> (index_.shift - kFilterBits);
    index_.filter[bit / 64] |= uint64_t{1} << bit % 64;
    uint64_t slot = hash >> index_.shift;
    while (index_.packed[slot] != kEmptyPair) slot = (slot + 1) & (index_.packed.size() - 1);
    index_.packed[slot] = (static_cast<uint64_t>(pair.left) << kPackedPartBits | static_cast<uint64_t>(pair.right))
                              << kPackedResultBits |
                          static_cast<uint64_t>(pair.result);
    return true;
  }

  VocabView v_;
  Historian historian_;
  VocabPairs index_;
};

class AllPairs {
 public:
  explicit AllPairs(const std::vector<PairSlot>& pairs) {
    const int bits = log2_slots(pairs.size());
    index_.slots.assign(size_t{1} << bits, PairSlot{kNoToken, kNoToken, kNoRank, kNoToken});
    index_.shift = 64 - bits;
    for (const PairSlot& pair : pairs) put(pair);
  }

  VocabPairs take() { return std::move(index_); }

 private:
  // Of two equal pairs the last one counts.
  void put(const PairSlot& pair) {
    uint64_t slot = hash_pair(pair.left, pair.right) >> index_.shift;
    const auto taken = [&](const PairSlot& other) {
      return other.left != kNoToken && (other.left != pair.left || other.right != pair.right);
    };
    while (taken(index_.slots[slot])) slot = (slot + 1) & (index_.slots.size() - 1);
    index_.slots[slot] = pair;
  }

  VocabPairs index_;
};

std::vector<PairSlot> all_pairs(const VocabView& v, const std::vector<int32_t>& merges, bool ranked) {
  std::vector<PairSlot> pairs;
  for (size_t i = 0; i < merges.size(); i += 3) {
    pairs.push_back({merges[i], merges[i + 1], static_cast<int32_t>(i / 3), merges[i + 2]});
  }
  if (!ranked) return pairs;
  const std::vector<bool> occurs = lengths_of(v);
  for (int32_t token = 0; token < v.size; ++token) {
    any_cut(v, occurs, token, [&](const PairSlot& pair) {
      pairs.push_back(pair);
      return false;
    });
  }
  return pairs;
}

std::vector<PairMerge> pairs_of_bytes(const VocabView& v) {
  std::vector<PairMerge> pairs(1 << 16, PairMerge{kNoRank, kNoToken});
  for (int32_t token = 0; token < v.size; ++token) {
    if (token_length(v, token) != 2) continue;
    const uint8_t* p = v.bytes + v.offsets[token];
    const int32_t left = v.byte_token[p[0]], right = v.byte_token[p[1]];
    if (left == kNoToken || right == kNoToken) continue;
    pairs[static_cast<size_t>(p[0] << 8 | p[1])] = find_pair(v, left, right);
  }
  return pairs;
}

VocabPairs index_all(const VocabView& v, const std::vector<int32_t>& merges, bool ranked) {
  if (v.size < 1 << kPackedPartBits) {
    Packer packer(v, ranked);
    if (ranked ? packer.add_ranked() : packer.add_merges(merges)) return packer.take();
  }
  return AllPairs(all_pairs(v, merges, ranked)).take();
}

}  // namespace

VocabPairs index_pairs(const VocabView& v, const std::vector<int32_t>& merges, bool ranked) {
  VocabPairs index = index_all(v, merges, ranked);
  VocabView indexed = v;
  indexed.packed_pairs = index.packed.empty() ? nullptr : index.packed.data();
  indexed.pair_filter = index.filter.data();
  indexed.pairs = index.slots.data();
  indexed.pair_shift = index.shift;
  indexed.orders = ranked || !index.history ? nullptr : index.history->order.data();
  index.of_bytes = pairs_of_bytes(indexed);
  return index;
}

std::unique_ptr<History> make_history(const VocabView& v) {
  std::vector<PairSlot> pairs;
  std::copy_if(v.pairs, v.pairs + (uint64_t{1} << (64 - v.pair_shift)), std::back_inserter(pairs),
               [](const PairSlot& pair) { return pair.left != kNoToken; });
  std::sort(pairs.begin(), pairs.end(), [](const PairSlot& a, const PairSlot& b) {
    return a.rank != b.rank ? a.rank < b.rank : a.left != b.left ? a.left < b.left : a.right < b.right;
  });
  Historian historian(v);
  for (const PairSlot& pair : pairs) {
    if (!historian.knows(pair.result) && historian.makes(pair)) historian.note(pair);
  }
  // A token left without a history: either merging its bytes never makes it, or ranks do not ascend.
  bool ascending = true;
  for (int32_t token = 0; token < v.size && ascending; ++token) {
    if (!historian.knows(token)) ascending = merges_ascend(v, v.bytes + v.offsets[token], token_length(v, token));
  }
  historian.history().view.ascending = ascending;
  return historian.take();
}

}  // namespace tk::bpe
