// SPDX-License-Identifier: Apache-2.0
// Which pair is next: a heap of four children a node, the largest count on top; among equals the smallest pair.
#pragma once
#include <cstddef>
#include <vector>

#include "bpe/train_pairs.h"

namespace tk::bpe {

struct Candidate {
  int64_t count;
  PairKey key;

  bool before(const Candidate& other) const { return count != other.count ? count > other.count : key < other.key; }
};

class CandidateQueue {
 public:
  bool empty() const { return heap_.empty(); }
  const Candidate& top() const { return heap_[0]; }

  void clear() { heap_.clear(); }

  // Puts one behind the others; order() must follow.
  void append(const Candidate& candidate) { heap_.push_back(candidate); }

  void order() {
    for (size_t i = heap_.size() / 4 + 1; i-- > 0;) {
      if (i < heap_.size()) sink(i, heap_[i]);
    }
  }

  void push(const Candidate& candidate) {
    size_t i = heap_.size();
    heap_.push_back(candidate);
    while (i > 0 && candidate.before(heap_[(i - 1) / 4])) {
      heap_[i] = heap_[(i - 1) / 4];
      i = (i - 1) / 4;
    }
    heap_[i] = candidate;
  }

  void pop() {
    const Candidate last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) sink(0, last);
  }

  // Gives the top a smaller count.
  void lower_top(int64_t count) { sink(0, {count, heap_[0].key}); }

 private:
  // Puts a candidate at place i or below it.
  void sink(size_t i, const Candidate candidate) {
    for (;;) {
      const size_t first = 4 * i + 1;
      if (first >= heap_.size()) break;
      const size_t last = first + 4 < heap_.size() ? first + 4 : heap_.size();
      size_t best = first;
      for (size_t child = first + 1; child < last; ++child) {
        if (heap_[child].before(heap_[best])) best = child;
      }
      if (!heap_[best].before(candidate)) break;
      heap_[i] = heap_[best];
      i = best;
    }
    heap_[i] = candidate;
  }

  std::vector<Candidate> heap_;
};

}  // namespace tk::bpe
