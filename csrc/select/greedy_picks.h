// SPDX-License-Identifier: Apache-2.0
// The picks after the first, for the per-ISA files. Both modes keep a score for every row, negative once the row is out
// of question, and answer `best()`: the row of the highest score, with all partners so far counted in.
//
// MaxMin: a score only falls as partners come, so one that has not met the newest partners is still a bound. Only rows
// of the best bounds meet partners they have missed, W partners at a time, until the best bound is no bound any more.
// The partners are kept, packed: k D floats.
// MaxSum: every score needs every partner. A pass over the rows finds their distances to the newest partner and, while
// the rows are at hand, to the best of those that may be the next ones; a pick that was guessed costs one addition a
// row. The distances to the last guesses are kept: 4 W N floats.
#pragma once
#include "select/point_tiles.h"

namespace tk::selection {
namespace {

constexpr float kOut = -1.0f;              // the score of a row that cannot be picked, or has been
constexpr int64_t kRefreshed = 3 * kRows;  // rows whose bounds are lowered at once
constexpr int64_t kFewRows = 1024;         // of which only a tile at once
constexpr int kGuesses = W;                // rows whose distances one pass finds
constexpr int kRemembered = 4 * W;         // and that are kept
constexpr int64_t kScanned = 64 * 1024;    // scores worth a task of their own

// The highest score, the lowest index of equals.
TK_INLINE uint64_t best_key(const float* score, int64_t count) {
  vf most = set(kOut);
  int64_t i = 0;
  for (; i + W <= count; i += W) most = max(load(score + i), most);
  float highest = reduce_max(most);
  for (; i < count; ++i) highest = score[i] > highest ? score[i] : highest;
  if (highest < 0) return 0;
  int64_t at = 0;
  while (score[at] != highest) ++at;
  return key_of(highest, at);
}

template <class Kind, class T>
class MaxMin {
 public:
  MaxMin(const Points<T>& s, float* score, int64_t picks)
      : s_(s),
        score_(score),
        seen_(s.rows),
        items_(round_up(picks, kPanel)),
        words_(round_up(picks, kPanel) * s.width),
        keys_(kRefreshed) {
    for (int64_t j = 0; j < s.rows; ++j) seen_[j] = 0;
  }

  static constexpr float kBegin = kInf;
  static float answer(float score) { return root_of<Kind>(score); }

  void add_partner(int32_t j) {
    float* panel = words_.data() + met_ / kPanel * s_.width * kPanel;
    if (met_ % kPanel == 0) __builtin_memset(panel, 0, static_cast<size_t>(s_.width * kPanel) * sizeof(float));
    const Scratch<float> copy(tile_stride(s_.width));
    copy_row(s_, j, copy.data());
    for (int64_t d = 0; d < s_.width; ++d) panel[d * kPanel + met_ % kPanel] = copy[d];
    items_[met_++] = j;
    if (met_ == 1) meet_first();
  }

  uint64_t best() {
    while (true) {
      const uint64_t key = best_key(score_, s_.rows);
      if (key == 0 || seen_[item_of(key)] == met_) return key;
      lower_bounds();
    }
  }

 private:
  // Everyone meets the first partner.
  void meet_first() {
    const Scratch<int32_t> rows(s_.rows);
    int64_t count = 0;
    for (int64_t j = 0; j < s_.rows; ++j) {
      if (score_[j] >= 0) rows[count++] = static_cast<int32_t>(j);
    }
    meet<Kind>(s_, rows.data(), count, PackedRows{1, items_.data(), words_.data()}, [&](const Tile& t) {
      for (int64_t i = 0; i < t.count; ++i) {
        score_[rows[t.first + i]] = t.gaps[i * kPanel];
        seen_[rows[t.first + i]] = 1;
      }
    });
  }

  // The best score that is no bound; below 0 where there is none.
  float certain_score() const {
    vf most = set(kOut);
    int64_t j = 0;
    for (; j + W <= s_.rows; j += W) {
      const vi certain = load_int(seen_.data() + j) == set_int(static_cast<int32_t>(met_));
      most = max(select(certain, load(score_ + j), set(kOut)), most);
    }
    float best = reduce_max(most);
    for (; j < s_.rows; ++j) best = seen_[j] == met_ && score_[j] > best ? score_[j] : best;
    return best;
  }

  // The best bounds, of those that reach the best certain score.
  BestKeys best_bounds() {
    BestKeys stale{keys_.data(), s_.rows < kFewRows ? kRows : kRefreshed};
    float least = larger(certain_score(), 0.0f);
    for (int64_t first = 0; first < s_.rows; first += W) {
      const int64_t end = first + W < s_.rows ? first + W : s_.rows;
      if (first + W == end && reduce_max(load(score_ + first)) < least) continue;
      for (int64_t j = first; j < end; ++j) {
        if (seen_[j] < met_ && score_[j] >= least) stale.offer(key_of(score_[j], j));
      }
      if (stale.count == stale.room) least = larger(score_of(stale.keys[0]), least);
    }
    return stale;
  }

  // The rows of the best bounds, those together that have partners of the same vector to meet.
  void lower_bounds() {
    const BestKeys stale = best_bounds();
    int32_t rows[kRefreshed];
    for (int64_t i = 0; i < stale.count; ++i) {
      const int32_t row = item_of(stale.keys[i]);
      int64_t at = i;
      for (; at > 0 && seen_[rows[at - 1]] / W > seen_[row] / W; --at) rows[at] = rows[at - 1];
      rows[at] = row;
    }
    const int64_t count = stale.count;
    int64_t ends[kRefreshed];
    int64_t tiles = 0;
    for (int64_t i = 0, begin = 0; i < count; ++i) {
      const bool last = i + 1 == count || i + 1 - begin == kRows || seen_[rows[i + 1]] / W != seen_[rows[i]] / W;
      if (!last) continue;
      ends[tiles++] = i + 1;
      begin = i + 1;
    }
    parallel_for(tiles, [&](int64_t t) {
      const int64_t begin = t == 0 ? 0 : ends[t - 1];
      meet_missed(rows + begin, ends[t] - begin);
    });
  }

  void meet_missed(const int32_t* rows, int64_t count) {
    const int64_t vector = seen_[rows[0]] / W;
    const int64_t known = met_ - vector * W < W ? met_ - vector * W : W;
    const int64_t stride = tile_stride(s_.width);
    const Scratch<float> copies(kRows * stride);
    for (int64_t i = 0; i < count; ++i) copy_row(s_, rows[i], copies.data() + i * stride);
    alignas(64) float gaps[kRows * kPanel];
    const float* panel = words_.data() + vector / kVectors * s_.width * kPanel + vector % kVectors * W;
    tile_gaps<Kind, 1, kRows>(count, copies.data(), stride, panel, s_.width, gaps);
    const vi there = iota(0) < static_cast<int32_t>(known);
    for (int64_t i = 0; i < count; ++i) {
      const float least = reduce_min(select(there, load(gaps + i * kPanel), set(kInf)));
      if (least < score_[rows[i]]) score_[rows[i]] = least;
      seen_[rows[i]] = static_cast<int32_t>(vector * W + known);
    }
  }

  const Points<T>& s_;
  float* score_;
  int64_t met_ = 0;        // partners so far
  Scratch<int32_t> seen_;  // of these, how many a score has counted in
  Scratch<int32_t> items_;
  Scratch<float> words_;  // the partners, [panels][width][kPanel]
  Scratch<uint64_t> keys_;
};

template <class Kind, class T>
class MaxSum {
 public:
  MaxSum(const Points<T>& s, float* score, int64_t)
      : s_(s),
        score_(score),
        rows_(s.rows),
        lane_(s.rows),
        gaps_(kRemembered * s.rows),
        words_(kPanel * s.width),
        keys_(kGuesses) {
    for (int64_t j = 0; j < s.rows; ++j) lane_[j] = kNone;
    for (int i = 0; i < kRemembered; ++i) remembered_[i] = kNone;
  }

  static constexpr float kBegin = 0.0f;
  static float answer(float score) { return score; }

  void add_partner(int32_t j) {
    if (lane_[j] == kNone) guess(j);
    const float* gaps = gaps_.data() + lane_[j] * s_.rows;
    parallel_ranges(
        s_.rows, 1,
        [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) score_[i] = score_[i] < 0 ? score_[i] : score_[i] + gaps[i];
        },
        kScanned);
  }

  uint64_t best() const { return best_key(score_, s_.rows); }

 private:
  static constexpr int32_t kNone = -1;

  // Distances of all rows to a partner, and to the rows of the best scores that are not remembered.
  void guess(int32_t j) {
    BestKeys best{keys_.data(), kGuesses - 1};
    int64_t count = 0;
    for (int64_t i = 0; i < s_.rows; ++i) {
      if (score_[i] < 0) continue;
      rows_[count++] = static_cast<int32_t>(i);
      if (lane_[i] == kNone) best.offer(key_of(score_[i], i));
    }
    int32_t items[kPanel] = {j};
    for (int64_t i = 0; i < best.count; ++i) items[i + 1] = item_of(best.keys[i]);
    const PackedRows packed{best.count + 1, items, words_.data()};
    pack(s_, packed);
    int32_t lanes[kRemembered];
    sort_lanes(lanes);
    for (int64_t i = 0; i < packed.count; ++i) remember(lanes[i], items[i]);
    meet<Kind>(s_, rows_.data(), count, packed, [&](const Tile& t) {
      for (int64_t i = 0; i < t.count; ++i) {
        float* to = gaps_.data() + rows_[t.first + i];
        for (int64_t k = 0; k < packed.count; ++k) to[lanes[k] * s_.rows] = root_of<Kind>(t.gaps[i * kPanel + k]);
      }
    });
  }

  float score_of_lane(int32_t lane) const { return remembered_[lane] == kNone ? kOut : score_[remembered_[lane]]; }

  // Lanes, those first that are worth least: empty, of rows that have been picked, of low scores.
  void sort_lanes(int32_t* lanes) const {
    for (int32_t i = 0; i < kRemembered; ++i) {
      int32_t at = i;
      for (; at > 0 && score_of_lane(lanes[at - 1]) > score_of_lane(i); --at) lanes[at] = lanes[at - 1];
      lanes[at] = i;
    }
  }

  void remember(int32_t lane, int32_t item) {
    if (remembered_[lane] != kNone) lane_[remembered_[lane]] = kNone;
    remembered_[lane] = item;
    lane_[item] = lane;
  }

  const Points<T>& s_;
  float* score_;
  int32_t remembered_[kRemembered];  // which row a lane of `gaps_` belongs to
  Scratch<int32_t> rows_;            // that may still be picked
  Scratch<int32_t> lane_;            // of every row, or kNone
  Scratch<float> gaps_;              // [lane][row]
  Scratch<float> words_;
  Scratch<uint64_t> keys_;
};

}  // namespace
}  // namespace tk::selection
