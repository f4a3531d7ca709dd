// SPDX-License-Identifier: Apache-2.0
// Incremental: a merge touches its occurrences and their neighbours alone. A token lies at the slot of its first part;
// the occurrence of a pair is the slot of its left token, so that a slot is in the list of at most one pair.
#include "bpe/dynamic_merge.h"

#include <algorithm>
#include <queue>
#include <string>

#include "bpe/pair_index.h"
#include "core/error.h"

namespace tk::bpe {
namespace {

constexpr int32_t kNone = -1;

struct PairState {
  int32_t left, right;
  int32_t head = kNone, tail = kNone;  // its occurrences, as a list through the slots
  int32_t count = 0;
  bool ascending = true;  // the list is in the order of slots
  bool touched = false;   // has occurrences that the queue does not know
  enum class Valid : uint8_t { unasked, yes, no } valid = Valid::unasked;
};

// Stale entries are never too low: a pair can only lose occurrences without a new entry.
struct Candidate {
  int32_t count, first, pair;
  bool operator<(const Candidate& o) const { return count != o.count ? count < o.count : first > o.first; }
};

class Merger {
 public:
  explicit Merger(const MergePairsArgs& a) : a_(a), next_id_(a.next_id) {
    const auto n = static_cast<int32_t>(a.offsets[a.sequences]);
    token_.assign(a.ids, a.ids + n);
    before_.resize(n);
    after_.resize(n);
    pair_.assign(n, kNone);
    earlier_.resize(n);
    later_.resize(n);
    for (int64_t b = 0; b < a.sequences; ++b)
      link(static_cast<int32_t>(a.offsets[b]), static_cast<int32_t>(a.offsets[b + 1]));
    for (int32_t slot = 0; slot < n; ++slot) add(slot);
    announce();
  }

  MergedPairs run() {
    while (a_.max_merges < 0 || static_cast<int64_t>(out_.result.size()) < a_.max_merges) {
      const int32_t best = pop();
      if (best == kNone) break;
      merge(best);
      announce();
    }
    collect();
    return std::move(out_);
  }

 private:
  void link(int32_t first, int32_t last) {
    for (int32_t slot = first; slot < last; ++slot) {
      before_[slot] = slot == first ? kNone : slot - 1;
      after_[slot] = slot + 1 == last ? kNone : slot + 1;
    }
  }

  // Lists the pair whose left token lies at the slot, if there is one.
  void add(int32_t slot) {
    if (slot == kNone || after_[slot] == kNone) return;
    const int32_t left = token_[slot], right = token_[after_[slot]];
    const int32_t p = index_.find_or_add(left, right);
    if (p == static_cast<int32_t>(pairs_.size())) pairs_.push_back({left, right});
    PairState& pair = pairs_[p];
    pair_[slot] = p;
    if (pair.count == 0) pair.ascending = true;
    pair.ascending &= pair.tail < slot;
    earlier_[slot] = pair.tail;
    later_[slot] = kNone;
    (pair.tail == kNone ? pair.head : later_[pair.tail]) = slot;
    pair.tail = slot;
    ++pair.count;
    if (!pair.touched) touched_.push_back(p);
    pair.touched = true;
  }

  void remove(int32_t slot) {
    if (slot == kNone || pair_[slot] == kNone) return;
    PairState& pair = pairs_[pair_[slot]];
    (earlier_[slot] == kNone ? pair.head : later_[earlier_[slot]]) = later_[slot];
    (later_[slot] == kNone ? pair.tail : earlier_[later_[slot]]) = earlier_[slot];
    --pair.count;
    pair_[slot] = kNone;
  }

  // Only where a known token came to be made in a second way.
  void sort(PairState* pair) {
    std::vector<int32_t> slots;
    for (int32_t slot = pair->head; slot != kNone; slot = later_[slot]) slots.push_back(slot);
    std::sort(slots.begin(), slots.end());
    int32_t last = kNone;
    for (const int32_t slot : slots) {
      earlier_[slot] = last;
      (last == kNone ? pair->head : later_[last]) = slot;
      last = slot;
    }
    later_[last] = kNone;
    pair->tail = last;
    pair->ascending = true;
  }

  Candidate candidate(int32_t p) {
    PairState& pair = pairs_[p];
    if (!pair.ascending) sort(&pair);
    return {pair.count, pair.head, p};
  }

  void announce() {
    for (const int32_t p : touched_) {
      pairs_[p].touched = false;
      if (pairs_[p].count > 0 && pairs_[p].valid != PairState::Valid::no) queue_.push(candidate(p));
    }
    touched_.clear();
  }

  bool is_valid(PairState* pair) const {
    if (pair->valid == PairState::Valid::unasked) {
      const bool yes = !a_.valid || a_.valid(pair->left, pair->right);
      pair->valid = yes ? PairState::Valid::yes : PairState::Valid::no;
    }
    return pair->valid == PairState::Valid::yes;
  }

  // The pair to merge next, or kNone.
  int32_t pop() {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      if (pairs_[top.pair].count == 0) continue;
      const Candidate now = candidate(top.pair);
      if (now < top) {
        queue_.push(now);
      } else if (is_valid(&pairs_[top.pair])) {
        return top.pair;
      }
    }
    return kNone;
  }

  void merge(int32_t p) {
    const int32_t left = pairs_[p].left, right = pairs_[p].right, count = pairs_[p].count;
    const int32_t id = joined_id(a_, left, right, &next_id_);
    int64_t replaced = 0;
    for (; pairs_[p].count > 0; ++replaced) replace(pairs_[p].head, id);
    out_.parts.insert(out_.parts.end(), {left, right});
    out_.result.push_back(id);
    out_.count.push_back(count);
    out_.replaced.push_back(replaced);
  }

  void replace(int32_t slot, int32_t id) {
    const int32_t gone = after_[slot];
    remove(before_[slot]);
    remove(slot);
    remove(gone);
    token_[slot] = id;
    after_[slot] = after_[gone];
    if (after_[gone] != kNone) before_[after_[gone]] = slot;
    token_[gone] = kNone;
    add(before_[slot]);
    add(slot);
  }

  void collect() {
    out_.offsets.push_back(0);
    for (int64_t b = 0; b < a_.sequences; ++b) {
      for (int64_t slot = a_.offsets[b]; slot < a_.offsets[b + 1]; ++slot) {
        if (token_[slot] != kNone) out_.ids.push_back(token_[slot]);
      }
      out_.offsets.push_back(static_cast<int64_t>(out_.ids.size()));
    }
  }

  const MergePairsArgs& a_;
  int32_t next_id_;
  std::vector<int32_t> token_;            // by slot; kNone: part of an earlier slot's token
  std::vector<int32_t> before_, after_;   // neighbouring slots of the sequence
  std::vector<int32_t> pair_;             // by slot
  std::vector<int32_t> earlier_, later_;  // occurrences of the same pair
  std::vector<PairState> pairs_;
  PairIndex index_;
  std::vector<int32_t> touched_;
  std::priority_queue<Candidate> queue_;
  MergedPairs out_;
};

}  // namespace

int32_t joined_id(const MergePairsArgs& a, int32_t left, int32_t right, int32_t* next_id) {
  if (*next_id == INT32_MAX) {
    throw ValueError(
        "merge_pairs_batch: next_id must leave room below 2**31 - 1 for the id of every merge, got none left");
  }
  const int32_t id = a.join ? a.join(left, right, *next_id) : *next_id;
  if (id < 0 || id > *next_id || id == left || id == right) {
    throw ValueError("merge_pairs_batch: join must return an id in [0, " + std::to_string(*next_id) +
                     "] that is neither of the pair, got " + std::to_string(id));
  }
  *next_id += id == *next_id;
  return id;
}

MergedPairs merge_pairs_batch(const MergePairsArgs& a) { return Merger(a).run(); }

}  // namespace tk::bpe
