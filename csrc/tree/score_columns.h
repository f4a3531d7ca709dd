// SPDX-License-Identifier: Apache-2.0
// Scores of a tile, a row of them for every key: lanes are queries, so that the running softmax of many queries needs
// no step across lanes. In base 2. Included by per-ISA files only.
#pragma once
#include "attention/key_tile.h"
#include "core/exp2.h"
#include "tree/tree_keys.h"

namespace tk::tree {
namespace {

// Of rows of queries; arrays are padded to a multiple of W.
struct Running {
  float* most;    // the largest score so far
  float* sum;     // of 2^(score - most)
  float* shift;   // what to subtract from the scores of the tile at hand; finite unless a score is infinite
  float* factor;  // what earlier sums are worth now
  TK_MEMBER Running from(int64_t r) const { return {most + r, sum + r, shift + r, factor + r}; }
};

struct ScoreColumns {
  float* data;
  int64_t stride;  // between keys
  TK_MEMBER float* row(int64_t key) const { return data + key * stride; }
};

// Moves a vector of maxima on to those of a tile.
TK_INLINE void raise(const Running& s, int64_t r, vf most_here) {
  const vf old = load(s.most + r);
  const vf most = max(most_here, old);
  const vf shift = select(most == -attention::kInfinity, zero(), most);
  const vf factor = exp2(old - shift);
  store(s.most + r, most);
  store(s.shift + r, shift);
  store(s.factor + r, factor);
  store(s.sum + r, load(s.sum + r) * factor);
}

// Of `lanes` queries; NaN are left out.
[[maybe_unused]] void raise_columns(const Running& s, const ScoreColumns& scores, int64_t keys, int64_t lanes) {
  for (int64_t c = 0; c < lanes; c += W) {
    vf even = set(-attention::kInfinity);
    vf odd = even;
    int64_t k = 0;
    for (; k + 2 <= keys; k += 2) {
      even = max(load(scores.row(k) + c), even);
      odd = max(load(scores.row(k + 1) + c), odd);
    }
    if (k < keys) even = max(load(scores.row(k) + c), even);
    raise(s, c, max(even, odd));
  }
}

// Two weights of bfloat16 in a word. Halves round up: they are no less exact, and cheaper.
TK_INLINE vf join_weights(vf lower, vf upper) {
  return (vf)(((vu)lower + 0x8000u) >> 16 | (((vu)upper + 0x8000u) & 0xffff0000u));
}

// Scores become weights, in place. A Kind of pairs: rounded to bfloat16, those of two keys a word.
template <class Kind>
void weigh_columns(const Running& s, const ScoreColumns& scores, int64_t keys, int64_t lanes) {
  for (int64_t c = 0; c < lanes; c += W) {
    const vf shift = load(s.shift + c);
    vf sum = zero();
    for (int64_t k = 0; k < keys; k += Kind::kValues) {
      const vf p = exp2(load(scores.row(k) + c) - shift);
      sum = sum + p;
      if constexpr (Kind::kValues == 2) {
        const vf next = k + 1 < keys ? exp2(load(scores.row(k + 1) + c) - shift) : zero();
        sum = sum + next;
        store(scores.row(k / 2) + c, join_weights(p, next));
      } else {
        store(scores.row(k) + c, p);
      }
    }
    store(s.sum + c, load(s.sum + c) + sum);
  }
}

// `to` gets the scores of the nodes that a query sees, and -inf for the others. `next` holds for every query the
// nearest ancestor, or the node itself, that no earlier tile held.
[[maybe_unused]] void keep_seen(const int64_t* parents, const int32_t* place, const TileKeys& t, int32_t* next,
                                int64_t rows, const ScoreColumns& from, const ScoreColumns& to) {
  for (int64_t k = 0; k < t.count; ++k) attention::hide_lanes(to.row(k), 0, attention::round_up(rows, W));
  for (int64_t r = 0; r < rows; ++r) {
    int64_t n = next[r];
    for (; n >= 0 && place[n] >= t.first; n = parents[n])
      to.row(place[n] - t.first)[r] = from.row(place[n] - t.first)[r];
    next[r] = static_cast<int32_t>(n);
  }
}

}  // namespace
}  // namespace tk::tree
