// SPDX-License-Identifier: Apache-2.0
// The row whose nearest other row is farthest, in much less than the N^2 / 2 distances: for the per-ISA files.
//
// The distance to the nearest row met so far bounds that to the nearest row of all. In every step a few of the rows
// still in the race (the candidates) meet all others in the race, and both sides of each distance count. A candidate
// has then met every row but those that had left before, and meets these later, together with other candidates, if it
// may still win. Then its distance is certain, and every row whose bound does not beat the best certain one leaves.
// A distance is only ever made smaller, so the answer does not depend on the order of anything.
#pragma once
#include "select/point_tiles.h"

namespace tk::selection {
namespace {

constexpr int64_t kMostCandidates = 8 * kPanel;
constexpr int64_t kPending = kPanel;  // candidates that meet together what they had missed

template <class Kind, class T>
class NearestOther {
 public:
  // `rows` are those that may win and be partners, by ascending index; the list is used up. Every nearest[rows[i]] is
  // +inf.
  NearestOther(const Points<T>& s, int32_t* rows, int64_t count, float* nearest)
      : s_(s),
        nearest_(nearest),
        running_(rows),
        runners_(count),
        room_(candidates_of(count)),
        gone_(count),
        candidates_(room_),
        waiting_(room_ + kPending),
        words_(round_up(room_ > kPending ? room_ : kPending, kPanel) * s.width),
        keys_(room_) {}

  // The winner, whose nearest[] is then certain.
  int32_t find() {
    for (bool first = true; runners_ > 0 || pending_ > 0; first = false) {
      if (runners_ > 0) run(first);
      if (pending_ >= kPending || runners_ == 0) catch_up();
      leave();
    }
    return item_of(best_);
  }

 private:
  static int64_t candidates_of(int64_t count) {
    const int64_t wanted = round_up(count / 48, kPanel);
    return wanted < kPanel ? kPanel : wanted < kMostCandidates ? wanted : kMostCandidates;
  }

  bool may_win(int64_t j) const { return key_of(nearest_[j], j) > best_; }

  // Takes the candidates out of the race: those of the largest bounds, at first some from everywhere.
  int64_t choose(bool first) {
    const int64_t count = runners_ < room_ ? runners_ : room_;
    BestKeys best{keys_.data(), count};
    for (int64_t i = 0; i < runners_ && !first; ++i) best.offer(key_of(nearest_[running_[i]], running_[i]));
    const uint64_t least = first ? 0 : best.keys[0];
    int64_t chosen = 0;
    int64_t kept = 0;
    for (int64_t i = 0; i < runners_; ++i) {
      const int32_t j = running_[i];
      const bool take = first ? chosen < count && i >= chosen * runners_ / count : key_of(nearest_[j], j) >= least;
      if (take) {
        candidates_[chosen++] = j;
      } else {
        running_[kept++] = j;
      }
    }
    runners_ = kept;
    return chosen;
  }

  // The rows of a list against packed rows; nobody meets himself.
  void meet_all(const int32_t* rows, int64_t count, const PackedRows& p) {
    const int64_t lanes = p.panels() * kPanel;
    const int64_t chunks = chunks_of(count, p.count, s_.width);
    const Scratch<float> least(chunks * lanes);
    for (int64_t i = 0; i < chunks * lanes; ++i) least[i] = kInf;
    meet<Kind>(s_, rows, count, p, [&](const Tile& t) {
      float* to = least.data() + t.chunk * lanes + t.panel * kPanel;
      for (int64_t i = 0; i < t.count; ++i) {
        const int32_t row = rows[t.first + i];
        vf nearest = set(kInf);
        for (int v = 0; v < t.vectors; ++v) {
          const vi self = load_int(p.items + t.panel * kPanel + v * W) == set_int(row);
          const vf gap = select(self, set(kInf), load(t.gaps + i * kPanel + v * W));
          store(to + v * W, min(gap, load(to + v * W)));
          nearest = min(gap, nearest);
        }
        lower(row, reduce_min(nearest));
      }
    });
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (int64_t i = 0; i < p.count; ++i) lower(p.items[i], least[chunk * lanes + i]);
    }
  }

  void lower(int64_t j, float gap) {
    if (gap < nearest_[j]) nearest_[j] = gap;
  }

  void certify(int64_t j) {
    const uint64_t key = key_of(nearest_[j], j);
    if (key > best_) best_ = key;
  }

  void run(bool first) {
    const int64_t count = choose(first);
    const Scratch<int32_t> items(round_up(count, kPanel));
    for (int64_t i = 0; i < count; ++i) items[i] = candidates_[i];
    const PackedRows packed{count, items.data(), words_.data()};
    pack(s_, packed);
    meet_all(candidates_.data(), count, packed);
    meet_all(running_, runners_, packed);
    for (int64_t i = 0; i < count; ++i) {
      if (left_ == 0) {
        certify(candidates_[i]);
      } else if (may_win(candidates_[i])) {
        waiting_[pending_++] = candidates_[i];
      }
    }
  }

  // Pending candidates meet the rows that have left the race; those that left after a candidate's step it had met.
  void catch_up() {
    int64_t count = 0;
    for (int64_t i = 0; i < pending_; ++i) {
      if (may_win(waiting_[i])) waiting_[count++] = waiting_[i];
    }
    pending_ = count;
    if (count < kPending && runners_ > 0) return;
    for (int64_t begin = 0; begin < pending_; begin += kPending) {
      const int64_t size = pending_ - begin < kPending ? pending_ - begin : kPending;
      int32_t items[kPending];
      for (int64_t i = 0; i < size; ++i) items[i] = waiting_[begin + i];
      const PackedRows packed{size, items, words_.data()};
      pack(s_, packed);
      meet_all(gone_.data(), left_, packed);
      for (int64_t i = 0; i < size; ++i) certify(items[i]);
    }
    pending_ = 0;
  }

  void leave() {
    int64_t kept = 0;
    for (int64_t i = 0; i < runners_; ++i) {
      if (may_win(running_[i])) {
        running_[kept++] = running_[i];
      } else {
        gone_[left_++] = running_[i];
      }
    }
    runners_ = kept;
  }

  const Points<T>& s_;
  float* nearest_;
  int32_t* running_;
  int64_t runners_;
  int64_t room_;
  int64_t left_ = 0;
  int64_t pending_ = 0;
  uint64_t best_ = 0;
  Scratch<int32_t> gone_;
  Scratch<int32_t> candidates_;
  Scratch<int32_t> waiting_;
  Scratch<float> words_;
  Scratch<uint64_t> keys_;
};

}  // namespace
}  // namespace tk::selection
