// SPDX-License-Identifier: Apache-2.0
// The keys that a tile of queries meets together: pieces of the spans of its policy, side by side, so that short blocks
// leave no lane idle. Included by per-ISA files only. How a kernel walks:
//
//   KeyTile keys;
//   for (KeyWalk<P> walk(policy, tile); walk.next(&keys, most);) {   // most <= kMostKeys
//     pack_transposed<Kind>(PickedRows<T>{k, stride, keys.index}, keys.count, width, ...);   // lane i is key index[i]
//     multiply<Kind>(rows, keys.lanes(), words, ..., ScoreOut{scale2, bias}, scores, stride);
//     hide(policy, keys, tile, scores, stride);  // -inf where a query does not see the key; does nothing for full
//     tiles
//   }
#pragma once
#include "attention/multiply.h"
#include "attention/policy.h"

namespace tk::attention {
namespace {

constexpr int64_t kMostKeys = 512;
constexpr int kMostRuns = 128;
constexpr float kInfinity = __builtin_inff();
constexpr float kLog2E = 1.44269504088896341f;
constexpr double kLn2 = 0.693147180559945309;

// Neighbouring keys from `begin`, in lanes from `lane`.
struct KeyRun {
  int64_t begin, count, lane;
  bool full;  // every query of the tile sees all of them
};

struct KeyTile {
  int64_t count;  // of keys; lanes count a multiple of W
  int runs;
  bool full;
  KeyRun run[kMostRuns];
  int64_t index[kMostKeys];
  TK_MEMBER int64_t lanes() const { return round_up(count, W); }
};

template <class P>
class KeyWalk {
 public:
  TK_MEMBER KeyWalk(const P& policy, const TileRows& rows) : policy_(policy), rows_(rows) {}

  // The next up to `most` keys; false at the end.
  bool next(KeyTile* t, int64_t most) {
    t->count = 0;
    t->runs = 0;
    t->full = true;
    while (t->count < most && t->runs < kMostRuns) {
      if (at_ == span_.end && !next_span()) break;
      take(t, smaller(span_.end - at_, most - t->count));
    }
    return t->count > 0;
  }

 private:
  TK_MEMBER bool next_span() {
    if (!policy_.next(rows_, &cursor_, &span_)) {
      span_.end = at_;
      return false;
    }
    at_ = span_.begin;
    return true;
  }
  TK_MEMBER void take(KeyTile* t, int64_t keys) {
    if (keys <= 0) return;  // a span may be empty
    t->run[t->runs++] = {at_, keys, t->count, span_.full};
    t->full = t->full && span_.full;
    for (int64_t i = 0; i < keys; ++i) t->index[t->count + i] = at_ + i;
    t->count += keys;
    at_ += keys;
  }

  const P& policy_;
  TileRows rows_;
  Cursor cursor_;
  Span span_{0, 0, true};
  int64_t at_ = 0;
};

// What becomes of products q.k: scores in base 2, times scale * log2(e) and plus a bias * log2(e) a lane. A bias of
// -inf hides its key, and a NaN in it; bias_lanes fills it.
struct ScoreOut {
  float scale;
  const float* bias;
  TK_MEMBER void operator()(float* to, int64_t lane, vf sum) const {
    const vf added = load(bias + lane);
    store(to, select(added == -kInfinity, added, fma(sum, set(scale), added)));
  }
};

// `bias` is that of the sample and head, or null. Lanes without a key are hidden.
TK_INLINE void bias_lanes(const float* bias, const KeyTile& t, float* lanes) {
  for (int64_t i = 0; i < t.count; ++i) lanes[i] = bias ? bias[t.index[i]] * kLog2E : 0.0f;
  for (int64_t i = t.count; i < t.lanes(); ++i) lanes[i] = -kInfinity;
}

TK_INLINE void hide_lanes(float* scores, int64_t begin, int64_t end) {
  for (; begin + W <= end; begin += W) store(scores + begin, set(-kInfinity));
  for (; begin < end; ++begin) scores[begin] = -kInfinity;
}

template <class P>
TK_INLINE void hide_run(const P& policy, const KeyRun& run, int64_t i, float* scores) {
  float* lanes = scores + run.lane;
  if constexpr (P::kIntervals) {
    const Interval seen = policy.interval(i, Span{run.begin, run.begin + run.count, false});
    const int64_t begin = at_most(at_least(seen.begin - run.begin, 0), run.count);
    const int64_t end = at_most(at_least(seen.end - run.begin, begin), run.count);
    hide_lanes(lanes, 0, begin);
    hide_lanes(lanes, end, run.count);
  } else {
    for (int64_t j = 0; j < run.count; ++j) {
      lanes[j] = policy.allowed(i, run.begin + j) ? lanes[j] : -kInfinity;
    }
  }
}

// -inf for the scores of pairs that the policy hides. Row r of the tile is query rows.begin + r, in row r of scores.
template <class P>
void hide(const P& policy, const KeyTile& t, const TileRows& rows, float* scores, int64_t stride) {
  if (t.full) return;
  for (int k = 0; k < t.runs; ++k) {
    if (t.run[k].full) continue;
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      hide_run(policy, t.run[k], i, scores + (i - rows.begin) * stride);
    }
  }
}

}  // namespace
}  // namespace tk::attention
