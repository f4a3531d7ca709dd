// SPDX-License-Identifier: Apache-2.0
// The picks after the first, for the per-ISA files. Both modes keep a score for every row, negative once the row is out
// of question, and answer `best()`: the row of the highest score, with all partners so far counted in.
//
// MaxMin: a score only falls as partners come, so one that has not met the newest partners is still a bound. Only rows
// whose bound is the best are brought up to date, a few at a time, against all the partners they have missed.
// MaxSum: every score needs every partner. A pass over the rows finds their distances to the newest partner and, while
// the rows are at hand, to those that may be the next ones; as long as the guess holds, a pick costs one addition a
// row.
#pragma once
#include "select/point_tiles.h"

namespace tk::selection {
namespace {

constexpr float kOut = -1.0f;            // the score of a row that cannot be picked, or has been
constexpr int64_t kRefreshed = 2 * W;    // rows brought up to date at once
constexpr int64_t kGuesses = kPanel;     // partners whose distances one pass finds
constexpr int64_t kScanned = 64 * 1024;  // scores worth a task of their own

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
      : s_(s), score_(score), seen_(s.rows), partners_(picks), words_(kRefreshed * s.width), keys_(kRefreshed) {
    for (int64_t j = 0; j < s.rows; ++j) seen_[j] = 0;
  }

  static constexpr float kBegin = kInf;
  static float answer(float score) { return root_of<Kind>(score); }

  void add_partner(int32_t j) {
    partners_[met_++] = j;
    if (met_ > 1) return;
    parallel_ranges((s_.rows + W - 1) / W, W * s_.width, [&](int64_t begin, int64_t end) {
      const Scratch<float> words(kPanel * s_.width);
      for (int64_t v = begin; v < end; ++v) {
        int32_t items[W];
        int count = 0;
        for (int64_t i = v * W; i < v * W + W && i < s_.rows; ++i) {
          if (score_[i] >= 0) items[count++] = static_cast<int32_t>(i);
        }
        if (count > 0) refresh(items, count, words.data());
      }
    });
  }

  uint64_t best() {
    while (true) {
      const uint64_t key = best_key(score_, s_.rows);
      if (key == 0 || seen_[item_of(key)] == met_) return key;
      BestKeys stale{keys_.data(), kRefreshed};
      uint64_t certain = 0;
      for (int64_t j = 0; j < s_.rows; ++j) {
        if (score_[j] < 0) continue;
        const uint64_t own = key_of(score_[j], j);
        if (seen_[j] < met_) {
          stale.offer(own);
        } else if (own > certain) {
          certain = own;
        }
      }
      refresh_stale(stale, certain);
    }
  }

 private:
  void refresh_stale(const BestKeys& stale, uint64_t certain) {
    int32_t items[kRefreshed];
    int64_t count = 0;
    for (int64_t i = 0; i < stale.count; ++i) {
      if (stale.keys[i] > certain) items[count++] = item_of(stale.keys[i]);
    }
    parallel_for((count + W - 1) / W, [&](int64_t v) {
      const int size = static_cast<int>(count - v * W < W ? count - v * W : W);
      refresh(items + v * W, size, words_.data() + v * W);
    });
  }

  // Up to W rows against the partners that the one of them has missed that has missed most.
  void refresh(const int32_t* items, int count, float* words) {
    int32_t padded[W];
    int32_t from = static_cast<int32_t>(met_);
    for (int i = 0; i < W; ++i) {
      padded[i] = items[i < count ? i : 0];
      from = seen_[padded[i]] < from ? seen_[padded[i]] : from;
    }
    pack_lanes(s_, padded, words);
    vf least = set(kInf);
    const Scratch<float> copies(kRows * tile_stride(s_.width));
    for (int64_t p = from; p < met_; p += kRows) {
      const int64_t height = met_ - p < kRows ? met_ - p : kRows;
      for (int64_t i = 0; i < height; ++i) copy_row(s_, partners_[p + i], copies.data() + i * tile_stride(s_.width));
      alignas(64) float gaps[kRows * kPanel];
      tile_gaps<Kind, 1, kRows>(height, copies.data(), tile_stride(s_.width), words, s_.width, gaps);
      for (int64_t i = 0; i < height; ++i) least = min(load(gaps + i * kPanel), least);
    }
    for (int i = 0; i < count; ++i) {
      score_[items[i]] = least[i] < score_[items[i]] ? least[i] : score_[items[i]];
      seen_[items[i]] = static_cast<int32_t>(met_);
    }
  }

  const Points<T>& s_;
  float* score_;
  int64_t met_ = 0;        // partners so far
  Scratch<int32_t> seen_;  // of these, how many a score has counted in
  Scratch<int32_t> partners_;
  Scratch<float> words_;
  Scratch<uint64_t> keys_;
};

template <class Kind, class T>
class MaxSum {
 public:
  MaxSum(const Points<T>& s, float* score, int64_t)
      : s_(s), score_(score), rows_(s.rows), gaps_(kGuesses * s.rows), words_(kGuesses * s.width), keys_(kGuesses) {}

  static constexpr float kBegin = 0.0f;
  static float answer(float score) { return score; }

  void add_partner(int32_t j) {
    int64_t lane = lane_of(j);
    if (lane < 0) {
      guess(j);
      lane = 0;
    }
    const float* gaps = gaps_.data() + lane * s_.rows;
    parallel_ranges(
        s_.rows, 1,
        [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) score_[i] = score_[i] < 0 ? score_[i] : score_[i] + gaps[i];
        },
        kScanned);
  }

  uint64_t best() const { return best_key(score_, s_.rows); }

 private:
  int64_t lane_of(int32_t j) const {
    for (int64_t i = 0; i < guesses_; ++i) {
      if (items_[i] == j) return i;
    }
    return -1;
  }

  // Distances of all rows to a partner, and to the rows of the best scores.
  void guess(int32_t j) {
    BestKeys best{keys_.data(), kGuesses - 1};
    int64_t count = 0;
    for (int64_t i = 0; i < s_.rows; ++i) {
      if (score_[i] < 0) continue;
      rows_[count++] = static_cast<int32_t>(i);
      best.offer(key_of(score_[i], i));
    }
    items_[0] = j;
    for (int64_t i = 0; i < best.count; ++i) items_[i + 1] = item_of(best.keys[i]);
    guesses_ = best.count + 1;
    const PackedRows packed{guesses_, items_, words_.data()};
    pack(s_, packed);
    meet<Kind>(s_, rows_.data(), count, packed, [&](const Tile& t) {
      for (int64_t i = 0; i < t.count; ++i) {
        float* to = gaps_.data() + rows_[t.first + i];
        for (int64_t lane = 0; lane < guesses_; ++lane) to[lane * s_.rows] = root_of<Kind>(t.gaps[i * kPanel + lane]);
      }
    });
  }

  const Points<T>& s_;
  float* score_;
  int64_t guesses_ = 0;
  int32_t items_[kGuesses];
  Scratch<int32_t> rows_;  // that may still be picked
  Scratch<float> gaps_;    // [guess][row]
  Scratch<float> words_;
  Scratch<uint64_t> keys_;
};

}  // namespace
}  // namespace tk::selection
